"""Where the database is: the `--db` option, else the variable AUTOTUNE_DB, else the user's data folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from autotune.errors import UserError

VARIABLE = "AUTOTUNE_DB"


@dataclass(frozen=True)
class Location:
    """A place for a database.

    Attributes:
        path: the SQLite file; None where the database is no plain file.
        url: a SQLAlchemy URL; None: `path` says it all.
        source: what named the place: `--db`, `AUTOTUNE_DB` or `default`.
        shown_as: what messages call it; empty: the path or URL.
    """

    path: Path | None
    url: str | None
    source: str
    shown_as: str = ""

    def __str__(self) -> str:
        """For messages: never shows a password."""
        if self.shown_as or self.path is not None:
            return self.shown_as or str(self.path)
        from sqlalchemy import make_url

        return make_url(self.url or "").render_as_string(hide_password=True)


def default_path() -> Path:
    """The file that is used when nothing else is said."""
    return Path(platformdirs.user_data_dir("autotune", appauthor=False)) / "autotune.db"


def locate(option: str | Path | None = None) -> Location:
    """Finds the database's place; nothing is opened.

    Args:
        option: what `--db` said: a path or a SQLAlchemy URL; None: not given.

    Raises:
        UserError: it is empty, or a URL that SQLAlchemy cannot read.
    """
    if option is not None:
        if not str(option).strip():
            # What a script's unset variable leaves: it does not mean the user's own database.
            raise UserError("--db is empty: give a file's path or a URL, or leave the option out")
        return _parse(str(option), "--db")
    variable = os.environ.get(VARIABLE, "")
    return _parse(variable, VARIABLE) if variable else Location(default_path(), None, "default")


def _parse(text: str, source: str) -> Location:
    if "://" not in text:
        return Location(Path(text).expanduser().absolute(), None, source)
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"{source} {text.partition('://')[0]}://… is no database URL: give a file's path"
            " or a URL such as sqlite:////data/autotune.db or postgresql+psycopg://host/autotune"
        ) from error
    plain = url.drivername in ("sqlite", "sqlite+pysqlite") and not url.query
    if plain and url.database and url.database != ":memory:":
        return Location(Path(url.database).absolute(), None, source)
    return Location(None, text, source)
