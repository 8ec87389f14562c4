"""The table of commands: each is imported when it is called, so that `autotune --help` answers at once."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, Final, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from autotune.cli.output import CLOSED_PIPE, silence
from autotune.errors import UserError

COMMANDS: Final = {
    "Tune": {
        "run": "Search both stages at each shape and decide each shape's layer config.",
        "measure": "Time one config on this machine's GPU, with its 95% interval over fresh routings.",
        "compare": "Compare two configs, runs or bundles in paired rounds.",
        "confirm": "Confirm stored winners again on today's stack.",
    },
    "Deploy": {
        "export": "Write the winners as a bundle: environment files, JSON and manifest.json.",
        "verify": "Show which entry an engine selects at each shape.",
        "status": "List winners and bundles that no longer fit this machine's stack.",
        "ab": "Compare two arms of a serving benchmark.",
    },
    "Look at results": {
        "show": "Show the latest winner of each shape, or everything about one trial.",
        "top": "List the best candidates of each stage and shape.",
        "history": "List the runs, the newest first.",
        "report": "Write a report on a run, a device or a bundle.",
        "dashboard": "Open optuna-dashboard on a copy of the studies.",
    },
    "Look into kernels": {
        "spaces": "Show each search space: its knobs, its rules and its size.",
        "check": "Execute candidates' gfx942 machine code on the CPU and compare their numbers.",
        "isa": "Compile two configs and show how their machine code differs.",
    },
    "Set up": {
        "doctor": "Tell what this machine can do for each backend.",
        "db": "The database: where it is, its version, copies, merging and forgetting.",
    },
}
"""One line a command, by task; a command's module has its name and a function or an app of that name."""

_GENERAL = "General"
CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command whose help lists its options by task, and which takes no empty path."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        empty = any(text == "" or (text.startswith("--") and text.endswith("=")) for text in args)
        rest = super().parse_args(ctx, args)
        for parameter in self.params if empty else ():
            # As a path "" is the working directory, where nobody wanted a bundle or a copy.
            if ctx.params.get(parameter.name) == Path():
                raise UserError(f"{parameter.opts[0]} is empty: give a path, or . for this folder")
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help is laid out as that of its commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


class Root(Group):
    """`autotune` itself: its commands are known by name, and imported when they are called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": _Lazy()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read the output has seen enough, as `| head` has.
            silence("stdout", "stderr")
            raise typer.Exit(CLOSED_PIPE) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for task, commands in COMMANDS.items():
            with formatter.section(task):
                formatter.write_dl(list(commands.items()))


class _Lazy(dict[str, Any]):
    """Commands by name; a value is imported when it is asked for."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(name for commands in COMMANDS.values() for name in commands))

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            self[name] = _load(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self.keys() else default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


def _load(name: str) -> Any:
    module = import_module(f"autotune.cli.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        function: Callable[..., None] = getattr(module, name)
        app.command(name=name, cls=Command, context_settings=CONTEXT)(expanded(function))
    command = get_command(app)
    command.name = name
    return command


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose groups of options, parameters of a dataclass, are options of their own."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(parameter.default, field.name),
                annotation=hints[field.name],
            )
            for field in fields(parameter.annotation)
        ]

    def call(**values: Any) -> None:
        told = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **told)

    call.__doc__ = command.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes a command's arguments and options, a section a task: plain text that needs no colour."""
    arguments, options = [], []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            arguments.append(("Arguments", record))
        else:
            panel = getattr(parameter, "rich_help_panel", None)
            options.append((panel if isinstance(panel, str) else _GENERAL, record))
    general = [entry for entry in options if entry[0] == _GENERAL]
    special = [entry for entry in options if entry[0] != _GENERAL]
    for title, records in _sections([*arguments, *_gathered(special), *general]):
        with formatter.section(f"{title} options" if title != "Arguments" else title):
            formatter.write_dl(records)


def _gathered(entries: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The entries with those of one section together, sections in the order of their first."""
    order = list(dict.fromkeys(title for title, _ in entries))
    return sorted(entries, key=lambda entry: order.index(entry[0]))


def _sections(entries: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    for title, group in groupby(entries, key=lambda entry: entry[0]):
        yield title, [record for _, record in group]
