"""Serving engines whose own code is looked into or called: SGLang, vLLM, AITER."""
