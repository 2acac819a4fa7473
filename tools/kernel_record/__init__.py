"""The machine-checked record of every CUDA kernel, docs/results/kernels and docs/kernels.md."""
