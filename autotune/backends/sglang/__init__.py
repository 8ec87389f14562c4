"""SGLang's Triton fused MoE."""
