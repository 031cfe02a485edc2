// A tensor over memory that something else owns. Called from map.rs alone.
#include <ATen/ATen.h>

extern "C" {
// A tensor of `dims` sizes and scalar type `type` over `data`; `drop(owner)` is called when nothing uses it any more. Null where libtorch refuses.
at::Tensor* pumice_borrow(void* data, const int64_t* sizes, int dims, int type, void* owner, void (*drop)(void*)) {
  try {
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(type));
    return new at::Tensor(at::from_blob(data, at::IntArrayRef(sizes, dims), [owner, drop](void*) { drop(owner); }, options));
  } catch (const std::exception&) {
    return nullptr;
  }
}
}
