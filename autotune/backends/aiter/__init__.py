"""Backend `aiter`: the W4A8 MoE kernels that serve Kimi-K2.5 on MI325X, through AITER."""
