#include <cuda_runtime.h>

template <int N>
__global__ void attend(float* q, const float* k) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += q[i] * k[i + threadIdx.x];
  q[threadIdx.x] = sum;
}

extern "C" void torch_cuda_attend(float* q, const float* k) { attend<64><<<1, 32>>>(q, k); }
