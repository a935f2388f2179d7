#include <cuda_runtime.h>

__global__ void add(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1.0f;
}

#ifdef USE_C10D_NCCL
namespace c10d {
struct ProcessGroupNCCL {
  virtual ~ProcessGroupNCCL();
  virtual int rank();
};
ProcessGroupNCCL::~ProcessGroupNCCL() {}
int ProcessGroupNCCL::rank() { return 0; }
}  // namespace c10d
#endif

extern "C" int torch_cuda_add(float* x, int n) {
  add<<<(n + 255) / 256, 256>>>(x, n);
  return static_cast<int>(cudaDeviceSynchronize());
}
