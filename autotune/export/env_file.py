"""The process environment of a bundle, for each way of starting a server: one set of data, four texts.

- `autotune.env`: `NAME=value` lines that a shell can source and docker can read with `--env-file`.
- `env/autotune.sh`: `export NAME='value'`, for any value.
- `env/configmap.yaml`: a Kubernetes ConfigMap for `envFrom`.
- `env/autotune.conf`: a systemd drop-in.
"""

import json
import re
import shlex
from collections.abc import Mapping

from autotune.errors import UserError

# Both readers agree on these without quotes: the shell would expand others, docker would keep the quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:,+@%=-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONFIG_MAP = "moe-autotune"


def env_text(variables: Mapping[str, str], comment: str) -> str:
    """The comment, then `NAME=value` lines by name.

    Args:
        comment: one line or several; in each of the four texts a reader skips them.

    Raises:
        UserError: a value that a shell and docker would read differently.
    """
    for name, value in variables.items():
        if not _PLAIN.fullmatch(value):
            raise UserError(
                f"{name}={value!r} has a character that a shell and docker read differently:"
                " choose a path of plain letters with --bundle-path"
            )
    return _lines(*_comment(comment), *(f"{name}={value}" for name, value in _checked(variables)))


def shell_text(variables: Mapping[str, str], comment: str) -> str:
    """Lines that `.` (source) exports.

    Raises:
        UserError: a name or value that no environment can hold.
    """
    exports = (f"export {name}={shlex.quote(value)}" for name, value in _checked(variables))
    return _lines(*_comment(comment), *exports)


def config_map_text(variables: Mapping[str, str], comment: str) -> str:
    """A Kubernetes ConfigMap. Every value is quoted: `1` and `true` must stay strings.

    A JSON string is a YAML string in double quotes.

    Raises:
        UserError: a name or value that no environment can hold.
    """
    data = [f"  {name}: {json.dumps(value)}" for name, value in _checked(variables)]
    head = [*_comment(comment), "apiVersion: v1", "kind: ConfigMap", "metadata:", f"  name: {_CONFIG_MAP}"]
    return _lines(*head, "data:" if data else "data: {}", *data)


def systemd_text(variables: Mapping[str, str], comment: str) -> str:
    """A drop-in for a service. systemd undoes backslashes and expands `%` in these lines.

    Raises:
        UserError: a name or value that no environment can hold.
    """
    settings = [f'Environment="{name}={_systemd(value)}"' for name, value in _checked(variables)]
    return _lines(*_comment(comment), "[Service]", *settings)


def env_files(variables: Mapping[str, str], comment: str) -> dict[str, str]:
    """All four, by path in the bundle.

    Raises:
        UserError: a value that one of them cannot hold.
    """
    return {
        "autotune.env": env_text(variables, comment),
        "env/autotune.sh": shell_text(variables, comment),
        "env/configmap.yaml": config_map_text(variables, comment),
        "env/autotune.conf": systemd_text(variables, comment),
    }


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]


def _systemd(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def _checked(variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables by name, each of which an environment can hold on one line."""
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is not a name of an environment variable: correct the backend")
        if not value.isprintable():
            raise UserError(
                f"{name}={value!r} has a control character, which no environment file can hold: take it out"
            )
    return sorted(variables.items())
