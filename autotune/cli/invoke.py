"""Runs one command within a process: what a user can mend is one sentence on stderr and exit code 2."""

import errno
import sys
import warnings

import typer

from autotune import cli
from autotune.cli.output import is_broken, silence
from autotune.errors import UserError

# Of a path that a user named, at whatever is first asked of it.
_UNREACHABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)


def run() -> int:
    """Runs the command that `sys.argv` names; its exit code."""
    # Typer has classes of its own from 0.20 on, and click's before.
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]
    # Triton announces a default that changes in 3.10: a fingerprint names the Triton, a user can do nothing.
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    try:
        code = cli.app(prog_name="autotune", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        return _refuse(str(error))
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click's, whose place Typer hides
            print(error, file=sys.stderr)
            return 2
        return _refuse(_usage(error))
    except OSError as error:
        if error.filename is not None and error.errno in _UNREACHABLE:
            return _refuse(f"{error.filename}: {error.strerror}: give another path")
        if not is_broken(sys.stdout):
            raise
        silence("stdout")
        return _refuse(f"standard output cannot be written ({error.strerror}): send it elsewhere")
    return int(code or 0)


def _refuse(sentence: str) -> int:
    from autotune.text import printable  # help needs none

    print(f"error: {printable(sentence)}", file=sys.stderr)
    return 2


def _usage(error: Exception) -> str:
    """A wrong command line as one sentence, with the value that was given and where help is."""
    said = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "autotune"
    # Typer checks values with pydantic, whose sentence leaves the value out.
    given = [repr(fault["input"]) for fault in getattr(error.__cause__, "errors", list)()]
    value = f" (given: {', '.join(given)})" if given and not all(text in said for text in given) else ""
    return f"{said[:1].lower()}{said[1:]}{value}; {command} --help tells what it takes"
