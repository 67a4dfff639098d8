"""Many steps of all runs of a linear model in one launch on a GPU, by a kernel that is compiled for the problem."""

from implicit_bias.engine.steppers.cuda_kernel.kernel import CudaKernel, refusal

__all__ = ["CudaKernel", "refusal"]
