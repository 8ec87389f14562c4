"""Runs' commands without the password of a database's URL, as newer runs have them."""

import re
import shlex

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        # What is replaced is overwritten, not only no longer referred to.
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    runs = sa.table("runs", sa.column("id", sa.Integer), sa.column("command", sa.Text))
    may_have = sa.or_(runs.c.command.contains("://"), runs.c.command.contains("password="))
    for id_, command in connection.execute(sa.select(runs.c.id, runs.c.command).where(may_have)).all():
        shown = _masked(command)
        if shown != command:
            connection.execute(sa.update(runs).where(runs.c.id == id_).values(command=shown))


def _masked(command: str) -> str:
    """A command line with `***` for each password; one that needs none as it is."""
    try:
        words = shlex.split(command)
    except ValueError:  # no shell's: a library's caller may have given any text
        return _without_passwords(command)
    masked = [_without_passwords(word) for word in words]
    return command if masked == words else shlex.join(masked)


def _without_passwords(text: str) -> str:
    text = re.sub(r"(://[^:/?#@\s]*:)[^@]*@", r"\1***@", text)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", text)


def downgrade() -> None:
    pass
