"""Our W4A8 kernels in an engine's process: plugins of vLLM and of SGLang.

An engine loads `vllm:register` or `sglang:register` through this package's entry points; nothing of an engine
is imported before that. `checkpoint` knows the layouts of INT4 checkpoints, `experts` runs a layer's experts
and chooses the config, and the engines' modules put both in the place of the engine's own method. No model
was served with these plugins by us.
"""
