"""Search for MoE kernel parameters at speculative-decoding verify shapes."""

__version__ = "0.1.0"
