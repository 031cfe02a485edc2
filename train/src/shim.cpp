// What tch 0.24 lacks of libtorch, as C functions: each returns 0, or 1 with the reason in pumice_error(). Called from shim.rs alone.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/DeviceAccelerator.h>
#include <cstring>
#include <vector>

static thread_local char* error_text = nullptr;
#define GUARD(body)                              \
  try {                                          \
    body;                                        \
    return 0;                                    \
  } catch (const std::exception& e) {            \
    free(error_text);                            \
    error_text = strdup(e.what());               \
    return 1;                                    \
  }
static std::vector<at::Tensor> list(at::Tensor** p, int n) {
  std::vector<at::Tensor> v;
  for (int i = 0; i < n; i++) v.push_back(*p[i]);
  return v;
}

extern "C" {
const char* pumice_error() { return error_text ? error_text : ""; }

// One AdamW step over n tensors (parameter, gradient, first and second moment, step count), as torch.optim.AdamW(fused=True).
int pumice_adamw(at::Tensor** p, at::Tensor** g, at::Tensor** m, at::Tensor** v, at::Tensor** t, int n, double lr, double b1,
                 double b2, double decay, double eps) {
  GUARD(c10::NoGradGuard no_grad;
        at::_fused_adamw_(list(p, n), list(g, n), list(m, n), list(v, n), {}, list(t, n), lr, b1, b2, decay, eps, false, false))
}

// Bytes allocated on an accelerator at most since the start; -1 where it does not tell.
int64_t pumice_peak_memory(int device) {
  try {
    return at::accelerator::getDeviceStats(device).allocated_bytes[0].peak;
  } catch (...) {
    return -1;
  }
}

// 0: full f32 products; 1: TF32 (CUDA); both keep f32 in and out.
int pumice_tf32(int on) { GUARD(at::globalContext().setFloat32MatmulPrecision(on ? "high" : "highest")) }
}
