"""vLLM's Triton fused MoE."""
