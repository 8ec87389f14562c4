"""Compiles one FlyDSL kernel for a GPU that is not here. Run by path, in the Python that has the wheel.

    python autotune/backends/flydsl/worker REQUEST.json DRIVER_PID

That Python may be older than ours and lack everything that autotune needs, so nothing here imports autotune;
only the standard library, torch and flydsl. The fields of a request are `autotune.backends.flydsl.request`'s.

The kernel is called with dummy tensors: FlyDSL traces it and runs its passes, all but the last, which would
make a code object and needs a linker. That pass is run here for assembly text instead. The answer is one line
of JSON behind `ANSWER`; the text is `final.s` beside the request.

FlyDSL may raise, end the process (LLVM's errors) or abort it. The caller sees which by the exit code.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.backends.flydsl.worker import launchers, passes, shims
else:  # run by path, this folder is where modules are looked for first
    import launchers
    import passes
    import shims

ANSWER = "FLYDSL_ANSWER "
BEGUN = "FLYDSL_BEGUN"
MEMORY_BYTES = 64 << 30


def main() -> None:
    """Answers the request that the command line names."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):  # the caller died first, and nobody waits
        return
    with contextlib.suppress(OSError, ValueError):
        # The pool's limit on address space is too narrow for a ROCm build of torch. Root may widen it.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    path = Path(sys.argv[1])
    answer = work(json.loads(path.read_text(encoding="utf-8")), path.parent)
    print(ANSWER + json.dumps(answer), flush=True)


def work(request: "dict[str, Any]", folder: Path) -> "dict[str, Any]":
    """Compiles.

    Returns:
        `status`: `ok`; `refused`: the tree rejects these parameters; `error`: tracing or a pass failed;
        `unsupported`: this FlyDSL cannot be asked in our way, whatever the parameters.
        `why`: one sentence where it is not `ok`.
    """
    sys.path.insert(0, request["root"])  # as AITER does it with DSL2_ROOT
    answer: dict[str, Any] = {}
    try:
        import flydsl

        answer["flydsl"] = getattr(flydsl, "__version__", "?")
        shims.apply(Path(request["root"]))
        last_pass = passes.stop_before_binary()
        build = launchers.builder(request)
    except Exception as why:  # noqa: BLE001 whatever it is, no candidate is to blame
        traceback.print_exc()
        return {**answer, "status": "unsupported", "why": _sentence(why)}
    print(BEGUN, flush=True)  # what ends the process from here on is the candidate's doing
    try:
        launcher, arguments = build(), launchers.arguments(request)
        with passes.compile_hints(request["hints"]):
            launcher(*arguments)
            text = passes.assembly(launcher, last_pass, request["hints"])
    except (ValueError, AssertionError) as why:
        return {**answer, "status": "refused", "why": _sentence(why)}
    except passes.NoPipeline as why:
        return {**answer, "status": "unsupported", "why": _sentence(why)}
    except Exception as why:  # noqa: BLE001 whatever it is, it is this candidate's
        traceback.print_exc()
        return {**answer, "status": "error", "why": _sentence(why)}
    (folder / "final.s").write_bytes(text)
    return {**answer, "status": "ok"}


def _sentence(why: BaseException) -> str:
    return f"{type(why).__name__}: {' '.join(str(why).split())[:400]}"


if __name__ == "__main__":
    main()
