"""Databases that need not be migrated: a new one gets what the migrations made in this process's first.

Alembic's scripts take a seventh of a second, and hundreds of tests begin with an empty database.
"""

import sqlite3
from functools import cache

from sqlalchemy import Connection, create_engine, inspect

from autotune.store import migrations

migrate = migrations.upgrade


def install() -> None:
    """From now on this process makes its databases so."""
    migrations.upgrade = _upgrade


def _upgrade(connection: Connection, to: str = "head") -> None:
    if connection.dialect.name != "sqlite" or to != "head" or inspect(connection).get_table_names():
        migrate(connection, to)
        return
    for statement in _statements(migrations.revisions()):
        connection.exec_driver_sql(statement)


@cache
def _statements(_: tuple[str, ...]) -> list[str]:
    """What makes a database of the version of these revisions."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection, connection.begin():
        migrate(connection)
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        return list(raw.iterdump())[1:-1]  # between BEGIN and COMMIT
