// The meeting point of a run's processes (c10d::TCPStore) and NCCL, as C functions: 0, or 1 (failed), or 2 (nobody answered in time),
// with the reason in pumice_ranks_error(). Called from shim/store.rs and shim/nccl.rs alone.
//
// ProcessGroupNCCL.hpp wants nccl.h and the CUDA toolkit, and then the binary would need both at its start. So libnccl.so.2 (which comes with
// every CUDA build of PyTorch) is opened when it is asked for, and the current CUDA stream comes through c10's device-neutral interface.
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <dlfcn.h>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

static thread_local std::string error_text;
template <class F>
static int guard(F body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    error_text = e.what_without_backtrace();
    // c10d has no type of its own for a timeout: its text is the only sign.
    bool late = error_text.find("timeout") != std::string::npos || error_text.find("timed out") != std::string::npos;
    return late ? 2 : 1;
  } catch (const std::exception& e) {
    error_text = e.what();
    return 1;
  }
}

using Store = c10::intrusive_ptr<c10d::TCPStore>;
using Ms = std::chrono::milliseconds;

// What of libnccl.so.2 is used. nccl.h's values have not changed since NCCL 2.10 (the first with bfloat16).
struct Id { char bytes[128]; };
struct Nccl {
  int (*version)(int*);
  int (*unique_id)(Id*);
  int (*init)(void**, int, Id, int);
  int (*reduce_scatter)(const void*, void*, size_t, int, int, void*, void*);
  int (*all_gather)(const void*, void*, size_t, int, void*, void*);
  int (*all_reduce)(const void*, void*, size_t, int, int, void*, void*);
  int (*async_error)(void*, int*);
  int (*destroy)(void*);
  int (*abort)(void*);
  const char* (*text)(int);
};
constexpr int SUM = 0;

template <class F>
static void symbol(void* lib, const char* name, F& to) {
  to = reinterpret_cast<F>(dlsym(lib, name));
  if (!to) throw std::runtime_error(std::string("libnccl.so.2 has no function ") + name);
}
static const Nccl& nccl() {
  static const Nccl table = [] {
    void* lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_GLOBAL);
    if (!lib) throw std::runtime_error(dlerror());
    Nccl n;
    symbol(lib, "ncclGetVersion", n.version);
    symbol(lib, "ncclGetUniqueId", n.unique_id);
    symbol(lib, "ncclCommInitRank", n.init);
    symbol(lib, "ncclReduceScatter", n.reduce_scatter);
    symbol(lib, "ncclAllGather", n.all_gather);
    symbol(lib, "ncclAllReduce", n.all_reduce);
    symbol(lib, "ncclCommGetAsyncError", n.async_error);
    symbol(lib, "ncclCommDestroy", n.destroy);
    symbol(lib, "ncclCommAbort", n.abort);
    symbol(lib, "ncclGetErrorString", n.text);
    return n;
  }();
  return table;
}
static void ok(int code) {
  if (code) throw std::runtime_error(nccl().text(code));
}
static int type_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kHalf: return 6;
    case at::kFloat: return 7;
    case at::kDouble: return 8;
    case at::kBFloat16: return 9;
    default: throw std::runtime_error(std::string("NCCL ranks exchange f16, bf16, f32 and f64, not ") + at::toString(t.scalar_type()));
  }
}
static void* stream_of(const at::Tensor& t) { return at::accelerator::getCurrentStream(t.device().index()).native_handle(); }

extern "C" {
const char* pumice_ranks_error() { return error_text.c_str(); }
void pumice_free(void* p) { free(p); }

int pumice_store_new(const char* host, uint16_t port, int server, int64_t timeout, Store** out, uint16_t* bound) {
  return guard([&] {
    c10::initLogging();  // reads TORCH_CPP_LOG_LEVEL
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = server;
    options.waitWorkers = false;
    options.timeout = Ms(timeout);
    *out = new Store(c10::make_intrusive<c10d::TCPStore>(host, options));
    *bound = (**out)->getPort();
  });
}
void pumice_store_drop(Store* s) { delete s; }
int pumice_store_set(Store* s, const char* key, const uint8_t* data, size_t n) {
  return guard([&] { (*s)->set(key, std::vector<uint8_t>(data, data + n)); });
}
int pumice_store_wait(Store* s, const char* key, int64_t timeout) {
  return guard([&] { (*s)->wait({key}, Ms(timeout)); });
}
// The value of a key that stands; the caller frees it.
int pumice_store_get(Store* s, const char* key, uint8_t** out, size_t* n) {
  return guard([&] {
    auto value = (*s)->get(key);
    *out = static_cast<uint8_t*>(malloc(value.size() + 1));
    if (!*out) throw std::bad_alloc();
    if (!value.empty()) memcpy(*out, value.data(), value.size());
    *n = value.size();
  });
}
int pumice_store_add(Store* s, const char* key, int64_t by, int64_t* out) {
  return guard([&] { *out = (*s)->add(key, by); });
}
int pumice_store_delete(Store* s, const char* key, int* stood) {
  return guard([&] { *stood = (*s)->deleteKey(key); });
}

int pumice_nccl_version(int* out) {
  return guard([&] { ok(nccl().version(out)); });
}
int pumice_nccl_id(Id* out) {
  return guard([&] { ok(nccl().unique_id(out)); });
}
// Waits until all ranks have called it. The communicator belongs to `device`.
int pumice_nccl_new(const Id* id, int rank, int size, int device, void** out) {
  return guard([&] {
    at::accelerator::setDeviceIndex(device);
    ok(nccl().init(out, size, *id, rank));
  });
}
int pumice_nccl_drop(void* comm, int broken) {
  return guard([&] { ok(broken ? nccl().abort(comm) : nccl().destroy(comm)); });
}
// The three collectives are queued on the current stream of the tensors' device, after the work that makes `in`.
int pumice_nccl_reduce_scatter(void* comm, at::Tensor* in, at::Tensor* out) {
  return guard([&] {
    c10::DeviceGuard on(in->device());
    ok(nccl().reduce_scatter(in->data_ptr(), out->data_ptr(), out->numel(), type_of(*in), SUM, comm, stream_of(*in)));
  });
}
int pumice_nccl_all_gather(void* comm, at::Tensor* in, at::Tensor* out) {
  return guard([&] {
    c10::DeviceGuard on(in->device());
    ok(nccl().all_gather(in->data_ptr(), out->data_ptr(), in->numel(), type_of(*in), comm, stream_of(*in)));
  });
}
int pumice_nccl_all_reduce(void* comm, at::Tensor* t) {
  return guard([&] {
    c10::DeviceGuard on(t->device());
    ok(nccl().all_reduce(t->data_ptr(), t->data_ptr(), t->numel(), type_of(*t), SUM, comm, stream_of(*t)));
  });
}
// Until all that was queued on the device's current stream is done: a collective that a dead rank never joins would wait forever otherwise.
int pumice_nccl_wait(void* comm, int device, int64_t timeout) {
  bool late = false;
  int code = guard([&] {
    auto stream = at::accelerator::getCurrentStream(device);
    auto end = std::chrono::steady_clock::now() + Ms(timeout);
    while (!stream.query()) {
      int state = 0;
      ok(nccl().async_error(comm, &state));
      ok(state);
      if (std::chrono::steady_clock::now() > end) {
        late = true;
        throw std::runtime_error("the work queued on the GPU is not done");
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  return late ? 2 : code;
}
}
