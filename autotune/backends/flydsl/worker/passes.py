"""FlyDSL's pass pipeline, cut before its last pass, and that pass run for assembly.

Seen on wheels 0.1.5, 0.3.1, 0.4.2 and 0.5.0: the text is what FlyDSL's own dump writes, hints included, in up
to half the time, and without a linker.
"""

import contextlib
import re
from typing import Any

_LAST_PASS = "gpu-module-to-binary"


class NoPipeline(Exception):
    """This FlyDSL has another pipeline than the ones that we know."""


def stop_before_binary() -> "list[str]":
    """Takes the last pass off FlyDSL's pipeline. The list receives it, as FlyDSL writes it, at each compile.

    Raises:
        NoPipeline: there is no such pipeline to take it off.
    """
    from flydsl.compiler.backends import get_backend

    taken: list[str] = []
    family = type(get_backend())
    original = getattr(family, "pipeline_fragments", None)
    if original is None:
        raise NoPipeline(f"{family.__name__} has no pipeline_fragments")

    def shortened(self: Any, **kwargs: Any) -> "list[str]":
        fragments = list(original(self, **kwargs))
        if not fragments[-1].startswith(_LAST_PASS):
            raise NoPipeline(f"FlyDSL's pipeline ends in {fragments[-1]!r}, not in {_LAST_PASS}")
        taken[:] = [fragments.pop()]
        return fragments

    family.pipeline_fragments = shortened
    return taken


def compile_hints(hints: "dict[str, Any]") -> "contextlib.AbstractContextManager[Any]":
    """FlyDSL's context for `waves_per_eu` and `llvm_options`."""
    if not hints:
        return contextlib.nullcontext()
    from flydsl.compiler.kernel_function import CompilationContext

    context: contextlib.AbstractContextManager[Any] = CompilationContext.compile_hints(hints)
    return context


def assembly(launcher: Any, last_pass: "list[str]", hints: "dict[str, Any]") -> bytes:
    """The final assembly of the kernel that `launcher` has just traced.

    Raises:
        NoPipeline: the launcher does not keep what it compiled.
    """
    from flydsl._mlir import ir
    from flydsl._mlir.passmanager import PassManager

    compiled = getattr(launcher, "_last_compiled", None)
    module_text = getattr(compiled[1], "_ir_text", "") if compiled else ""
    if not module_text or not last_pass:
        raise NoPipeline("the launcher keeps no compiled module")
    options = hints.get("llvm_options")
    around: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if options:
        from flydsl.compiler.llvm_options import llvm_options

        around = llvm_options(options)
    with around, ir.Context() as context:
        context.load_all_available_dialects()
        module = ir.Module.parse(module_text)
        # Everything else stays: FlyDSL's dump leaves out `opts`, which the code object does have.
        fragment = re.sub(r"format=\w+", "format=isa", last_pass[0])
        PassManager.parse(f"builtin.module({fragment})").run(module.operation)
        return _mlir_string(str(module), "assembly")


def _mlir_string(text: str, name: str) -> bytes:
    """The bytes of `name = "..."`: a backslash escapes a backslash, a quote, or two hexadecimal digits."""
    assignment = re.search(name + r' = "((?:[^"\\]|\\.)*)"', text)
    if assignment is None:
        raise NoPipeline(f"the compiled module holds no {name}")

    def unescaped(match: "re.Match[bytes]") -> bytes:
        code = match[1]
        return bytes.fromhex(code.decode()) if len(code) == 2 else code

    return re.sub(rb'\\([0-9A-Fa-f]{2}|[\\"])', unescaped, assignment[1].encode("latin-1"))
