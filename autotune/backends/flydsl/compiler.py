"""Compiles a request in a process of its own and reads what became of it."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.wheel import flydsl_python
from autotune.protocol.backend import CompileRefused

_WORKER = Path(__file__).parent / "worker"
_ANSWER = "FLYDSL_ANSWER "
_BEGUN = "FLYDSL_BEGUN"
# Whatever of these the shell has would change the candidate.
_KNOBS = (
    "FLYDSL_",
    "AITER_FLYDSL_",
    "COMPILE_ONLY",
    "ARCH",
    "HSA_OVERRIDE_GFX_VERSION",
    "PYTHONPATH",
    "PYTHONHOME",
)
# LLVM of wheel 0.1.5: it says this and ends the process with exit code 1, without an exception.
_LDS_OVERFLOW = re.compile(r"local memory \((\d+)\) exceeds limit \(\d+\)")
_LLVM_SAYS = re.compile(r"(?:LLVM )?(?:ERROR|error|fatal error)\b.*")


class LdsOverflow(Exception):
    """The kernel needs more LDS than the target has.

    Attributes:
        lds_bytes: what it needs.
    """

    def __init__(self, lds_bytes: int) -> None:
        super().__init__(f"needs {lds_bytes} bytes of LDS")
        self.lds_bytes = lds_bytes


class Unsupported(CompileRefused):
    """The installed FlyDSL cannot be asked for assembly in our way; the candidate may be fine."""


def assembly(request: Request) -> str:
    """The final assembly text of a request.

    Raises:
        CompileRefused: the tree, a pass or LLVM rejects it, in one sentence.
        Unsupported: nothing can be said of the candidate.
        LdsOverflow: see there.
    """
    with tempfile.TemporaryDirectory(prefix="autotune-flydsl-") as name:
        folder = Path(name)
        asked = folder / "request.json"
        asked.write_text(json.dumps(request.json()))
        done = subprocess.run(
            [flydsl_python(), str(_WORKER), str(asked), str(os.getpid())],
            cwd=folder,
            env=_environment(request, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        code = folder / "final.s"
        if code.is_file() and done.returncode == 0:
            return code.read_text()
        raise _refusal(done.returncode, done.stdout)


def _environment(request: Request, folder: Path) -> dict[str, str]:
    """The worker's environment: no knob of the shell's, no cache, nothing of the user's home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_KNOBS)}
    return {
        **kept,
        "COMPILE_ONLY": "1",
        "ARCH": request.arch,
        "FLYDSL_GPU_ARCH": request.arch,
        # The gates are in no key of FlyDSL's caches: a hit may be the other setting's kernel.
        "FLYDSL_RUNTIME_ENABLE_CACHE": "0",
        "FLYDSL_RUNTIME_CACHE_DIR": str(folder / "cache"),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **request.environment,
    }


def _refusal(exit_code: int, output: str) -> Exception:
    """Why a worker left no assembly."""
    overflow = _LDS_OVERFLOW.search(output)
    if overflow:
        return LdsOverflow(int(overflow.group(1)))
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    began = _BEGUN in lines
    lines = [line for line in lines if line != _BEGUN]
    kind: type[CompileRefused]
    told = next((line for line in reversed(lines) if line.startswith(_ANSWER)), None)
    if told is not None:
        answer = json.loads(told.removeprefix(_ANSWER))
        kind = Unsupported if answer["status"] == "unsupported" else CompileRefused
        return kind(answer.get("why", "no assembly was written"))
    spoken = next((line for line in lines if _LLVM_SAYS.match(line)), lines[-1] if lines else "no message")
    kind = CompileRefused if began else Unsupported
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return kind(f"FlyDSL ended the process ({how}): {spoken[:300]}")
