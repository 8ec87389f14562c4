"""Puts back what an older tree expects of FlyDSL and wheel 0.1.5 does differently.

The published tree (FlyDSL a1d8312) was made for a FlyDSL built from itself. On the next wheel that PyPI has,
0.1.5, two things must be put back. A wheel as old as the tree has nothing to put back.
"""

import ast
from pathlib import Path
from typing import Any


def apply(root: Path) -> None:
    """Puts both back where `root` is such a tree and the installed wheel is newer."""
    own = root / "python/flydsl/compiler/ast_rewriter.py"
    # The tree tells by its own copy of the rewriter: it does not track symbols yet.
    if not own.is_file() or "SymbolScope" in own.read_text():
        return
    from flydsl.compiler import ast_rewriter

    if hasattr(ast_rewriter.ReplaceIfWithDispatch, "_collect_assigned_vars"):
        _decide_plain_conditions_while_tracing(ast_rewriter.ReplaceIfWithDispatch)
        _accept_scalars_in_bitcast()


def _decide_plain_conditions_while_tracing(rewriter: Any) -> None:
    """Those kernels mean every `if` on plain names to be decided while they are traced; 0.1.5 makes branches
    on the device of them. A condition counts as the device's only if it calls into the kernel's library.
    """
    helpers = {*rewriter._REWRITE_HELPER_NAMES, "dsl_not_", "dsl_and_", "dsl_or_", "scf_if_dispatch"}

    def calls_into_the_kernel(test: ast.AST) -> bool:
        called = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
        return any(not (isinstance(func, ast.Name) and func.id in helpers) for func in called)

    rewriter._could_be_dynamic = staticmethod(calls_into_the_kernel)


def _accept_scalars_in_bitcast() -> None:
    """Where a thread loads one dword, those kernels cast a scalar to a vector (tile_m * tile_k = 1024, which
    is stage 2's default tile). Their own FlyDSL widens it to one lane first; 0.1.5's verifier refuses it.
    """
    from flydsl._mlir import ir
    from flydsl.expr import arith, vector

    cast = vector.bitcast

    def widening(result_type: Any, source: Any, **where: Any) -> Any:
        value = arith.unwrap(source)
        if not isinstance(value.type, ir.VectorType):
            source = vector.from_elements(ir.VectorType.get([1], value.type), [value], **where)
        return cast(result_type, source, **where)

    vector.bitcast = widening
