"""For somebody with an MI325X: what the machine can do, a tuning, its confirmation, a report to send.

    python scripts/first_day.py --flydsl-root /path/to/FlyDSL [--out first_day] [--seconds 600] [--rehearse]

Run it in the container that serves the model. `first_day.md` beside it says what to expect. A step that fails
does not keep the later ones from running: whatever there is, is packed.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = ("--target", "offline:mi325x")
# Names, never anything else of the environment, which may hold secrets.
REPORTED = (
    "AITER_",
    "FLYDSL_",
    "DSL2_",
    "AUTOTUNE_",
    "HIP_",
    "ROCR_",
    "GPU_ARCHS",
    "ROCM_",
    "TRITON_",
    "CU_NUM",
)


@dataclass(frozen=True)
class Step:
    """One command with the file that takes what it prints."""

    name: str
    file: str
    command: list[str]
    why: str


def steps(out: Path, seconds: int, flydsl: list[str], *, rehearse: bool) -> list[Step]:
    """What is done, in order."""
    autotune = [sys.executable, "-m", "autotune"]
    database = ["--db", str(out / "first_day.db")]
    what = ["--backend", "aiter", "--shape", "m4", "--concurrency", "1,40", *flydsl, *database]
    tuning = [*autotune, "run", *what, "--json"]
    made = [
        Step("doctor", "doctor.txt", [*autotune, "doctor", *flydsl], "what this machine can do"),
        Step("doctor", "doctor.json", [*autotune, "doctor", *flydsl, "--json"], "the same for machines"),
    ]
    if rehearse:
        tuning += [*OFFLINE, "--trials", "3", "--compile-timeout", "150"]
    else:
        warm = [sys.executable, "-m", "autotune.backends.aiter.warm_up", "m4", "1,40"]
        made.append(Step("warm up", "warm_up.txt", warm, "AITER builds its own kernels; minutes, once"))
        tuning += ["--timeout", str(seconds)]
    made.append(Step("tuning", "run.json", tuning, "search, then the final against default and published"))
    if not rehearse:  # estimates choose no setting that serves two shapes
        bundle = ["--out", str(out / "deploy"), *database, "--backend", "aiter", "--guards", "4,160"]
        export = [*autotune, "export", *bundle]
        made.append(Step("export", "export.txt", export, "the one setting that serves both shapes"))
    return made


def run(step: Step, out: Path, environment: dict[str, str]) -> dict[str, object]:
    """Runs a step; what it prints goes to its file, errors beside it."""
    print(f"{step.name}: {step.why} …", flush=True)
    started = time.monotonic()
    with (out / step.file).open("w") as told, (out / f"{step.file}.err").open("w") as errors:
        done = subprocess.run(step.command, stdout=told, stderr=errors, env=environment, check=False)
    took = time.monotonic() - started
    lines = (out / f"{step.file}.err").read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines and done.returncode else ""
    print(f"  {'done' if done.returncode == 0 else f'FAILED ({done.returncode}): {last}'}, {took:.0f} s")
    return {
        "step": step.name,
        "file": step.file,
        "exit": done.returncode,
        "seconds": round(took, 1),
        "last": last,
    }


def main() -> int:
    """Runs everything and packs the report; its exit code is that of the tuning."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--flydsl-root", help="the FlyDSL tree that the engine uses; default: $DSL2_ROOT")
    options.add_argument("--flydsl-python", help="Python with the flydsl wheel; default: this one")
    options.add_argument("--out", type=Path, default=Path("first_day"), help="folder of the report")
    options.add_argument("--seconds", type=int, default=600, help="of search; the final comes on top")
    options.add_argument(
        "--rehearse", action="store_true", help="offline, with a few trials: is all in place?"
    )
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    flydsl = ["--flydsl-root", given.flydsl_root] if given.flydsl_root else []
    flydsl += ["--flydsl-python", given.flydsl_python] if given.flydsl_python else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if given.flydsl_root:
        environment["DSL2_ROOT"] = given.flydsl_root
    done = [
        run(step, given.out, environment)
        for step in steps(given.out, given.seconds, flydsl, rehearse=given.rehearse)
    ]
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(REPORTED)}
    summary = {"rehearsal": given.rehearse, "steps": done, "environment": variables}
    (given.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report = given.out.with_suffix(".tar.gz")
    with tarfile.open(report, "w:gz") as archive:
        archive.add(given.out, arcname=given.out.name)
    print(
        f"report: {report} ({report.stat().st_size / 1024:.0f} KiB). Please send it back, failures included."
    )
    return next((int(str(one["exit"])) for one in done if one["step"] == "tuning"), 1)


if __name__ == "__main__":
    sys.exit(main())
