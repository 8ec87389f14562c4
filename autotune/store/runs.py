"""Runs: who did what, when, and how far it got."""

import os
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from autotune import __version__
from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.processes.process import Process
from autotune.store.records import RunRecord, RunState
from autotune.store.rows import Reader, chunks, environment_id, existing
from autotune.store.schema import ConfirmationRow, Run, Trial, Winner
from autotune.store.sessions import Sessions


class Runs(Sessions):
    """The runs of an open database.

    A run whose process is gone reads as interrupted at its last sign of life, written so or not.
    """

    def begin_run(
        self,
        command: str,
        spec: Mapping[str, Any],
        seed: int,
        environment: Fingerprint | None = None,
        *,
        alone: bool = False,
    ) -> int:
        """Writes a run in state `running`, owned by this process; returns its id.

        Earlier runs whose process is gone are marked as interrupted on the way.

        Args:
            command: the command line as typed.
            spec: what is asked for, after defaults; JSON values.
            alone: in a file, no other process may tune the same problems on the same stack meanwhile: what
                one has tried the other would not hear of.

        Raises:
            UserError: another one does.
        """
        process = Process.current()
        with self.writing() as session:
            _interrupt_dead(session)
            stack = None if environment is None else environment_id(session, environment)
            if alone and session.get_bind().dialect.name == "sqlite":
                _refuse_second(session, spec, stack, str(self.location))
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
                environment_id=stack,
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
            row.state, row.ended_at = state, max(datetime.now(UTC), row.started_at)  # clocks are set back

    def run(self, run: int) -> RunRecord:
        """The run with an id.

        Raises:
            LookupError: there is none.
        """
        with self.reading() as session:
            return _record(session, Reader.of(session), existing(session, Run, run))

    def runs(self, among: Collection[int] | None = None) -> list[RunRecord]:
        """The runs of these ids, oldest first; None: all."""
        query = select(Run).order_by(Run.id)
        queries = [query] if among is None else [query.where(Run.id.in_(chunk)) for chunk in chunks(among)]
        with self.reading() as session:
            reader = Reader.of(session)
            return [_record(session, reader, row) for each in queries for row in session.scalars(each)]


def _interrupt_dead(session: Session) -> None:
    """Marks runs whose process is gone."""
    for row in session.scalars(select(Run).where(Run.state == RunState.RUNNING)):
        if Process(row.host, row.pid, row.process).alive is False:
            row.state, row.ended_at = RunState.INTERRUPTED, _last_sign(session, row)


def _refuse_second(session: Session, spec: Mapping[str, Any], stack: int | None, where: str) -> None:
    """Refuses a run where another process tunes a problem of it.

    Raises:
        UserError: one does.
    """
    under_way = select(Run).where(Run.state == RunState.RUNNING, Run.environment_id == stack)
    for row in session.scalars(under_way):
        common = set(spec.get("problems", ())) & set(row.spec.get("problems", ()))
        if common and Process(row.host, row.pid, row.process).alive and row.pid != os.getpid():
            raise UserError(
                f"run {row.id} in {where} tunes {min(common)} already (process {row.pid}, {row.command}):"
                " wait for its end, give this one another --db, or use a PostgreSQL database, which drivers"
                " share"
            )


def _last_sign(session: Session, run: Run) -> datetime:
    """When a run last wrote something."""
    written = [
        session.scalar(select(func.max(table.created_at)).where(table.run_id == run.id))
        for table in (Trial, ConfirmationRow, Winner)
    ]
    return max([run.started_at, *filter(None, written)])


def _record(session: Session, reader: Reader, row: Run) -> RunRecord:
    state, ended_at, seen_at = row.state, row.ended_at, None
    if state is RunState.RUNNING:
        # Nobody was there to write that it was killed.
        alive = Process(row.host, row.pid, row.process).alive
        if alive is False:
            state, ended_at = RunState.INTERRUPTED, _last_sign(session, row)
        elif alive is None:
            seen_at = _last_sign(session, row)
    return RunRecord(
        id=row.id,
        uid=row.uid,
        command=row.command,
        spec=row.spec,
        seed=row.seed,
        state=state,
        host=row.host,
        pid=row.pid,
        process=row.process,
        started_at=row.started_at,
        ended_at=ended_at,
        seen_at=seen_at,
        tool_version=row.tool_version,
        environment=None if row.environment_id is None else reader.environment(row.environment_id, row.id),
    )
