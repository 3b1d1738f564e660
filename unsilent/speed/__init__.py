"""Makes loaded networks fast on this machine: device, precision, threads, memory, kernels in C and Triton."""
