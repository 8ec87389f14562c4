"""The command line's entry."""

import gc
import os
import sys

from autotune.processes import interrupt


def main() -> None:
    """Runs a command; what a user can mend is one sentence on stderr and exit code 2."""
    try:
        interrupt.install()  # before what takes time to import
        # Most objects come from imports and stay: walking them again and again takes a tenth of a command.
        gc.set_threshold(100_000)
        # The search's matrices are small, and threads of a BLAS wait for cores that compiles keep busy.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from autotune.cli.output import prepare_streams

        prepare_streams()
        from autotune.cli.invoke import run

        code = run()
    except KeyboardInterrupt:
        code = interrupt.exit_code()
    if interrupt.ended():
        code = interrupt.exit_code()
    if (log := sys.modules.get("autotune.cli.logfile")) is not None:
        log.note(f"exit code {code}")
    sys.exit(code)


if __name__ == "__main__":
    main()
