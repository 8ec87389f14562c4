"""Writes docs/options.md: which option which command has.

python scripts/options_table.py > docs/options.md
"""

from typing import Any

from typer.main import get_command

from autotune.cli import app


def options_of() -> dict[str, list[Any]]:
    """The options of each command that can be called, `db merge` among them, hidden ones left out."""
    found: dict[str, list[Any]] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        parts = getattr(command, "commands", None)
        called = {f"{name} {sub}": part for sub, part in parts.items()} if parts else {name: command}
        for full, part in called.items():
            found[full] = [p for p in part.params if p.param_type_name == "option" and not p.hidden]
    return found


def table() -> str:
    """The page's text."""
    by_command = options_of()
    options = sorted({option.opts[0] for options in by_command.values() for option in options})
    lines = [
        "# Options",
        "",
        "Which command has which option. What an option does is in the command's own help:",
        "",
        "```sh",
        "autotune run --help",
        "```",
        "",
        "An option that would have no effect is refused with its name.",
        "",
        "| option | commands |",
        "|---|---|",
    ]
    for option in options:
        having = [name for name, own in by_command.items() if any(option == each.opts[0] for each in own)]
        lines.append(f"| `{option}` | {', '.join(having)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
