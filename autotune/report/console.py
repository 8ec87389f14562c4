"""The terminal that the commands print to, as rich sees it."""

from rich import console


class Console(console.Console):
    """A console whose reader may leave: the command line ends a command then, as for every other output."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
