"""An open database and its transactions: what every part of the store stands on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from autotune.machine.fingerprint import Fingerprint
from autotune.problem.layer import Problem
from autotune.store.database import WRITES, Database, open_database
from autotune.store.location import Location, locate, user_errors


class Sessions:
    """Opens, closes, reads and writes. A write has been committed when its block ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = database.engine.execution_options(**WRITES)
        # Looked up once: a trial is written thousands of times for few of these.
        self._ids: dict[Fingerprint | Problem, int] = {}
        # Finals of several GPUs end in threads of their own; SQLite would let them wait in turns of 250 ms.
        self._one_writer = threading.RLock()
        self._mine = threading.local()

    @classmethod
    def open(
        cls,
        location: str | Path | Location | None = None,
        *,
        read_only: bool = False,
        create: bool = True,
    ) -> Self:
        """Opens the database; one to be written is made, or brought to this tool's version.

        Args:
            location: a path or a database URL; None: AUTOTUNE_DB, or the user's data folder.
            read_only: nothing is made or changed.
            create: make one where there is none.

        Raises:
            UserError: see `open_database`.
        """
        place = location if isinstance(location, Location) else locate(location)
        return cls(open_database(place, read_only=read_only, create=create))

    def close(self) -> None:
        """Closes the database; nothing of it can be read afterwards."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def location(self) -> Location:
        """Where the database is."""
        return self._database.location

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to show to the user, e.g. that no write-ahead log works there."""
        return self._database.warnings

    @property
    def version(self) -> str:
        """The schema's version."""
        return self._database.version

    @property
    def upgraded_from(self) -> str | None:
        """The version that was found; None: the database is new."""
        return self._database.upgraded_from

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that reads; within `at_once` its one."""
        if (held := self._held()) is not None:
            yield held
            return
        with user_errors(self.location), Session(self._database.engine) as session:
            yield session

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """One transaction for all that this thread reads meanwhile: what is read twice is asked for once."""
        before = self._held()
        with self.reading() as session:
            self._mine.session = session
            try:
                yield
            finally:
                self._mine.session = before

    def _held(self) -> Session | None:
        held: Session | None = getattr(self._mine, "session", None)
        return held

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that writes; it commits at the end of the block, or on an error undoes all."""
        with (
            self._one_writer,
            user_errors(self.location),
            Session(self._writer) as session,
            session.begin(),
        ):
            yield session
