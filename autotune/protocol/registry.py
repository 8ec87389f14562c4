"""Families of kernels behind one protocol; see `base.Backend`."""

from importlib import import_module

from autotune.errors import UserError
from autotune.protocol.backend import Backend

# Imported by name, so that a backend's dependencies are needed only where it is used.
_BACKENDS = {
    "triton": "autotune.backends.triton.backend:TritonW4A8",
    "sglang": "autotune.backends.sglang.backend:SglangInt8",
    "sglang_w4a16": "autotune.backends.sglang.backend:SglangInt4",
    "sglang_fp8": "autotune.backends.sglang.backend:SglangFp8",
    "sglang_bf16": "autotune.backends.sglang.backend:SglangBf16",
    "sglang_w8a16": "autotune.backends.sglang.backend:SglangInt8A16",
    "vllm": "autotune.backends.vllm.backend:VllmInt8",
    "vllm_w4a16": "autotune.backends.vllm.backend:VllmInt4",
    "vllm_fp8": "autotune.backends.vllm.backend:VllmFp8",
    "vllm_bf16": "autotune.backends.vllm.backend:VllmBf16",
    "vllm_w8a16": "autotune.backends.vllm.backend:VllmInt8A16",
    "flydsl": "autotune.backends.flydsl.backend:Flydsl",
    "aiter": "autotune.backends.aiter.backend:Aiter",
    "aiter_main": "autotune.backends.aiter_main.backend:AiterMain",
    "aiter_main_w4a16": "autotune.backends.aiter_main.backend:AiterMainGrouped",
}


def backend_names() -> list[str]:
    """Names for `--backend`."""
    return list(_BACKENDS)


def load_backend(name: str) -> Backend:
    """The backend called `name`, or any `module:class`.

    Raises:
        UserError: there is none.
    """
    path = _BACKENDS.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise UserError(f"unknown backend {name!r}: use one of {', '.join(_BACKENDS)}, or module:class")
    try:
        backend: Backend = getattr(import_module(module), attribute)()
    except (ModuleNotFoundError, AttributeError, TypeError) as error:
        raise UserError(f"backend {name!r} cannot be loaded ({error}): correct the name") from error
    return backend
