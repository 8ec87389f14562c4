"""Our own W4A8 kernels in Triton."""
