"""The command line's entry."""

import sys
import warnings

from autotune.errors import UserError


def main() -> None:
    """Runs a command; a `UserError` is one sentence on stderr and exit code 2."""
    from autotune.cli import app

    # Triton announces a default that changes in 3.10: a fingerprint names the Triton, a user can do nothing.
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    try:
        app(prog_name="autotune")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
