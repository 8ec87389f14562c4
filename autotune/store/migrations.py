"""Brings a database to this tool's version with the Alembic scripts under `db/`.

Alembic is imported only when there is something to do: opening an up-to-date database must be quick.
"""

from functools import cache
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text

from autotune.resources import data_dir

if TYPE_CHECKING:
    from alembic.config import Config

TABLE: Final = "alembic_version"
"""Alembic's, in which the version of a database stands."""


@cache
def revisions() -> tuple[str, ...]:
    """Versions that this tool knows, oldest first: `0001` of `db/versions/0001_initial.py`."""
    return tuple(
        sorted(path.stem.partition("_")[0] for path in (data_dir("db") / "versions").glob("[0-9]*.py"))
    )


def version(connection: Connection) -> str | None:
    """The version of an open database that has the table; None: the table is empty."""
    number = connection.execute(text(f"SELECT version_num FROM {TABLE}")).scalar()
    return None if number is None else str(number)


def config(connection: Connection) -> "Config":
    """Alembic's configuration for the scripts under `db/`; no alembic.ini is read."""
    from alembic.config import Config

    settings = Config()
    # Alembic reads the value through a ConfigParser, to which a percent sign is special.
    settings.set_main_option("script_location", str(data_dir("db")).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings


def upgrade(connection: Connection, to: str = "head") -> None:
    """Runs what is missing, within the caller's transaction: all of it happens or none."""
    from alembic import command

    command.upgrade(config(connection), to)
