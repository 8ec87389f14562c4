"""`NAME=value` lines that a shell can source and docker can read with `--env-file`."""

import re
from collections.abc import Mapping

from autotune.errors import UserError

# Both readers agree on these without quotes: the shell would expand others, docker would keep the quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:,+@%=-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def env_text(variables: Mapping[str, str], comment: str) -> str:
    """The file's text: a comment line, then the variables by name.

    Raises:
        UserError: a value that a shell and docker would read differently.
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is no name of an environment variable: correct the backend")
        if not _PLAIN.fullmatch(value):
            raise UserError(
                f"{name}={value!r} has a character that a shell and docker read differently:"
                " choose a path of plain letters with --bundle-path"
            )
    lines = [f"# {comment}", *(f"{name}={variables[name]}" for name in sorted(variables))]
    return "\n".join(lines) + "\n"
