"""Fast inference on this machine: choice of device and precision, threads, memory, kernels in C and Triton."""
