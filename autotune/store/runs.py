"""Runs: who did what, when, and how far it got."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from autotune import __version__
from autotune.fingerprint import Fingerprint
from autotune.store.process import Process
from autotune.store.records import RunRecord, RunState
from autotune.store.rows import Reader, environment_id, existing
from autotune.store.schema import Run, Trial
from autotune.store.sessions import Sessions


class Runs(Sessions):
    """The runs of an open database."""

    def begin_run(
        self, command: str, spec: Mapping[str, Any], seed: int, environment: Fingerprint | None = None
    ) -> int:
        """Writes a run in state `running`, owned by this process; returns its id.

        Earlier runs whose process is gone are marked as interrupted on the way.

        Args:
            command: the command line as typed.
            spec: what is asked for, after defaults; JSON values.
        """
        process = Process.current()
        with self.writing() as session:
            _interrupt_dead(session)
            row = Run(
                uid=uuid.uuid4().hex,
                command=command,
                spec=dict(spec),
                seed=seed,
                state=RunState.RUNNING,
                host=process.host,
                pid=process.pid,
                process=process.identity,
                started_at=datetime.now(UTC),
                tool_version=__version__,
                environment_id=None if environment is None else environment_id(session, environment),
            )
            session.add(row)
            session.flush()
            return row.id

    def end_run(self, run: int, state: RunState) -> None:
        """Writes how a run ended, now.

        Raises:
            LookupError: there is no such run.
        """
        with self.writing() as session:
            row = existing(session, Run, run)
            row.state, row.ended_at = state, datetime.now(UTC)

    def interrupt_dead_runs(self) -> list[RunRecord]:
        """Marks runs of this host whose process is gone as interrupted; returns them.

        Their end is the last thing that they wrote.
        """
        with self.writing() as session:
            reader = Reader(session)
            return [_record(reader, row) for row in _interrupt_dead(session)]

    def run(self, run: int) -> RunRecord:
        """The run with an id.

        Raises:
            LookupError: there is none.
        """
        with self.reading() as session:
            return _record(Reader(session), existing(session, Run, run))

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        with self.reading() as session:
            reader = Reader(session)
            return [_record(reader, row) for row in session.scalars(select(Run).order_by(Run.id))]


def _interrupt_dead(session: Session) -> list[Run]:
    """Marks this host's runs whose process is gone; returns their rows."""
    dead = [
        row
        for row in session.scalars(select(Run).where(Run.state == RunState.RUNNING))
        if Process(row.host, row.pid, row.process).is_dead()
    ]
    for row in dead:
        last = session.scalar(select(func.max(Trial.created_at)).where(Trial.run_id == row.id))
        row.state, row.ended_at = RunState.INTERRUPTED, last or row.started_at
    return dead


def _record(reader: Reader, row: Run) -> RunRecord:
    return RunRecord(
        id=row.id,
        uid=row.uid,
        command=row.command,
        spec=row.spec,
        seed=row.seed,
        state=row.state,
        host=row.host,
        pid=row.pid,
        process=row.process,
        started_at=row.started_at,
        ended_at=row.ended_at,
        tool_version=row.tool_version,
        environment=None if row.environment_id is None else reader.environment(row.environment_id),
    )
