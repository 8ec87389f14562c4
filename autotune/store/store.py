"""The store: typed access to the database. Records go in and come out; sessions stay inside."""

import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from autotune import __version__
from autotune.fingerprint import Fingerprint
from autotune.problem import Problem, Stage
from autotune.results import Confirmation, Kind, LayerConfig, Sample, Status
from autotune.store import rows, trials, winners
from autotune.store.database import WRITES, Database, open_database, user_errors
from autotune.store.location import Location, locate
from autotune.store.process import Process
from autotune.store.records import (
    ExportRecord,
    RunRecord,
    ShortListed,
    StoredConfirmation,
    StoredTrial,
    TrialRecord,
    WinnerRecord,
)
from autotune.store.schema import (
    ConfirmationRow,
    Environment,
    Export,
    ExportedWinner,
    ProblemRow,
    Run,
    RunState,
    Trial,
    Winner,
)


class Store:
    """An open database. A method that writes has committed when it returns.

    Every method raises UserError for what a user can mend about the file: read-only, locked, full.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = database.engine.execution_options(**WRITES)
        # Looked up once: a trial is written thousands of times for few of these.
        self._ids: dict[Fingerprint | Problem, int] = {}

    @classmethod
    def open(cls, location: str | Path | Location | None = None, *, read_only: bool = False) -> Self:
        """Opens the database; one to be written is made, or brought to this tool's version.

        Args:
            location: a path or a database URL; None: AUTOTUNE_DB, or the user's data folder.
            read_only: nothing is made or changed.

        Raises:
            UserError: see `open_database`.
        """
        place = location if isinstance(location, Location) else locate(location)
        return cls(open_database(place, read_only=read_only))

    def close(self) -> None:
        self._database.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def location(self) -> Location:
        return self._database.location

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences to show to the user, e.g. that no write-ahead log works there."""
        return self._database.warnings

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with user_errors(self.location), Session(self._database.engine) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with user_errors(self.location), Session(self._writer) as session, session.begin():
            yield session

    # Runs

    def begin_run(
        self, command: str, spec: Mapping[str, Any], seed: int, environment: Fingerprint | None = None
    ) -> int:
        """Writes a run in state `running`, owned by this process; returns its id.

        Args:
            command: the command line as typed.
            spec: what is asked for, after defaults; JSON values.
        """
        process = Process.current()
        with self._writing() as session:
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
                environment_id=None if environment is None else rows.environment_id(session, environment),
            )
            session.add(row)
            session.flush()
            return row.id

    def end_run(self, run: int, state: RunState) -> None:
        """Writes how a run ended, now."""
        with self._writing() as session:
            row = session.get_one(Run, run)
            row.state, row.ended_at = state, datetime.now(UTC)

    def interrupt_dead_runs(self) -> list[RunRecord]:
        """Marks runs of this host whose process is gone as interrupted; returns them.

        Their end is the last thing that they wrote.
        """
        with self._writing() as session:
            dead = [
                row
                for row in session.scalars(select(Run).where(Run.state == RunState.RUNNING))
                if Process(row.host, row.pid, row.process).is_dead()
            ]
            for row in dead:
                last = session.scalar(select(func.max(Trial.created_at)).where(Trial.run_id == row.id))
                row.state, row.ended_at = RunState.INTERRUPTED, last or row.started_at
            reader = rows.Reader(session)
            return [reader.run(row) for row in dead]

    def run(self, run: int) -> RunRecord:
        """The run with an id.

        Raises:
            LookupError: there is none.
        """
        with self._reading() as session:
            row = session.get(Run, run)
            if row is None:
                raise LookupError(f"there is no run {run}")
            return rows.Reader(session).run(row)

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        with self._reading() as session:
            reader = rows.Reader(session)
            return [reader.run(row) for row in session.scalars(select(Run).order_by(Run.id))]

    # Trials

    def record_trial(self, run: int, trial: TrialRecord, samples: Sequence[Sample] = ()) -> int:
        """Writes a finished trial with its raw samples; returns its id.

        Raises:
            sqlalchemy.exc.IntegrityError: the record contradicts itself, e.g. a failure with a figure.
        """
        with self._writing() as session:
            environment = self._ids.get(trial.environment) or rows.environment_id(session, trial.environment)
            problem = self._ids.get(trial.problem) or rows.problem_id(session, trial.problem)
            id_ = trials.add_trial(session, run, trial, samples, environment, problem)
        # Not before the commit: a row that was rolled back has no id.
        self._ids |= {trial.environment: environment, trial.problem: problem}
        return id_

    def trials(
        self,
        *,
        problem: Problem,
        stage: Stage,
        backend: str,
        environment_key: str,
        workload: str,
        space_digest: str | None = None,
    ) -> list[StoredTrial]:
        """Comparable trials, oldest first: what a run of the same kind need not repeat.

        Args:
            workload: the measuring conditions; only equal ones are comparable.
            space_digest: only trials of this search-space file; None: of any.
        """
        query = (
            select(Trial)
            .join(ProblemRow, ProblemRow.id == Trial.problem_id)
            .join(Environment, Environment.id == Trial.environment_id)
            .where(
                ProblemRow.key == problem.key,
                Environment.key == environment_key,
                Trial.stage == stage,
                Trial.backend == backend,
                Trial.workload == workload,
            )
            .order_by(Trial.id)
        )
        if space_digest is not None:
            query = query.where(Trial.space_digest == space_digest)
        with self._reading() as session:
            reader = rows.Reader(session)
            return [trials.stored_trial(reader, row) for row in session.scalars(query)]

    def trials_of(self, run: int) -> list[StoredTrial]:
        """A run's trials in order."""
        with self._reading() as session:
            reader = rows.Reader(session)
            query = select(Trial).where(Trial.run_id == run).order_by(Trial.number)
            return [trials.stored_trial(reader, row) for row in session.scalars(query)]

    def samples(self, trial: int) -> tuple[Sample, ...]:
        """A trial's raw samples in order; empty for one that shares another's machine code."""
        with self._reading() as session:
            return trials.samples_of(session, trial)

    def trial_counts(self, run: int) -> dict[Status, int]:
        """How many trials of a run met which fate; fates that none met are left out."""
        query = select(Trial.status, func.count()).where(Trial.run_id == run).group_by(Trial.status)
        with self._reading() as session:
            return dict(session.execute(query).tuples().all())

    # Confirmations and winners

    def record_confirmation(
        self,
        run: int,
        confirmation: Confirmation,
        *,
        backend: str,
        environment: Fingerprint,
        workload: str,
        kind: Kind = Kind.MEASURED,
    ) -> int:
        """Writes a confirmation with every round's times; returns its id.

        A round in which no finalist was timed is not kept.
        """
        with self._writing() as session:
            return winners.add_confirmation(session, run, confirmation, backend, environment, workload, kind)

    def confirmation(self, confirmation: int) -> StoredConfirmation:
        """The confirmation with an id.

        Raises:
            LookupError: there is none.
        """
        with self._reading() as session:
            row = session.get(ConfirmationRow, confirmation)
            if row is None:
                raise LookupError(f"there is no confirmation {confirmation}")
            return winners.stored_confirmation(session, rows.Reader(session), row)

    def record_winner(self, run: int, confirmation: int) -> int:
        """Makes a confirmation's choice the winner of its problem; returns the winner's id.

        Everything about the winner comes from the confirmation: no figure can be given by hand.

        Raises:
            ValueError: the choice failed the numeric gate, there or in a trial of the same environment.
            sqlalchemy.exc.IntegrityError: the choice is not the default and not faster than it.
        """
        with self._writing() as session:
            return winners.add_winner(session, run, confirmation)

    def record_short_list(
        self,
        run: int,
        *,
        problem: Problem,
        backend: str,
        environment: Fingerprint,
        default: LayerConfig,
        entries: Sequence[ShortListed],
    ) -> list[int]:
        """Writes layer configs ranked by an estimate, the best first; returns their ids as winners.

        Raises:
            ValueError: a stage's config was not tried on this problem and environment, or its trial failed.
        """
        with self._writing() as session:
            return [
                winners.add_short_listed(session, run, problem, backend, environment, default, entry, rank)
                for rank, entry in enumerate(entries)
            ]

    def winners(
        self,
        *,
        problem: Problem | None = None,
        backend: str | None = None,
        environment_key: str | None = None,
        kind: Kind | None = None,
    ) -> list[WinnerRecord]:
        """The latest winner of each problem, backend, environment and kind, oldest first.

        Args:
            problem, backend, environment_key, kind: only these; None: any.
        """
        query = winners.latest_winners()
        if problem is not None:
            query = query.join(ProblemRow, ProblemRow.id == Winner.problem_id)
            query = query.where(ProblemRow.key == problem.key)
        if environment_key is not None:
            query = query.join(Environment, Environment.id == Winner.environment_id)
            query = query.where(Environment.key == environment_key)
        if backend is not None:
            query = query.where(Winner.backend == backend)
        if kind is not None:
            query = query.where(Winner.kind == kind)
        with self._reading() as session:
            reader = rows.Reader(session)
            return [winners.winner_record(reader, row) for row in session.scalars(query)]

    def short_list(self, best: WinnerRecord) -> list[WinnerRecord]:
        """All entries of the short list whose best entry is given, by rank."""
        query = (
            select(Winner)
            .join(ProblemRow, ProblemRow.id == Winner.problem_id)
            .join(Environment, Environment.id == Winner.environment_id)
            .where(
                Winner.run_id == best.run,
                Winner.kind == Kind.ESTIMATE,
                Winner.backend == best.backend,
                ProblemRow.key == best.problem.key,
                Environment.key == best.environment.key,
                Winner.id >= best.id,
            )
            .order_by(Winner.id)
        )
        with self._reading() as session:
            reader = rows.Reader(session)
            found = [winners.winner_record(reader, row) for row in session.scalars(query)]
        # A later list of the same run begins again at rank 0.
        return [record for rank, record in enumerate(found) if record.rank == rank]

    def nearby_winners(
        self, problem: Problem, backend: str, *, within: float = 4.0, limit: int = 8
    ) -> list[WinnerRecord]:
        """Winners of any environment at near token counts of the same layer dimensions, the nearest first.

        They are seeds, not results: their figures are other problems' or other stacks'.

        Args:
            within: the largest ratio of token counts; a winner does not carry over a long distance.
            limit: how many at most; equal configs count once.
        """
        with self._reading() as session:
            reader = rows.Reader(session)
            query = winners.near(problem, backend, within)
            found = [winners.winner_record(reader, row) for row in session.scalars(query)]
        unlike: dict[LayerConfig, WinnerRecord] = {}
        for record in sorted(found, key=lambda record: winners.distance(problem, record)):
            unlike.setdefault(record.config, record)
        return list(unlike.values())[:limit]

    # Exports

    def record_export(
        self,
        bundle: Path,
        manifest_hash: str,
        exported: Sequence[int],
        *,
        unmeasured_allowed: bool = False,
    ) -> int:
        """Writes that a bundle was made; returns the export's id.

        Args:
            manifest_hash: SHA-256 of its manifest.json, hex.
            exported: ids of the winners in it.
            unmeasured_allowed: the user let estimates or replayed figures in.

        Raises:
            sqlalchemy.exc.IntegrityError: a winner is not measured, and that is not allowed.
        """
        with self._writing() as session:
            row = Export(
                uid=uuid.uuid4().hex,
                host=socket.gethostname(),
                bundle_path=str(bundle.resolve()),
                manifest_hash=manifest_hash,
                unmeasured_allowed=unmeasured_allowed,
                tool_version=__version__,
                created_at=datetime.now(UTC),
            )
            session.add(row)
            session.flush()
            for winner in exported:
                session.add(
                    ExportedWinner(
                        export_id=row.id,
                        winner_id=winner,
                        kind=session.get_one(Winner, winner).kind,
                        unmeasured_allowed=unmeasured_allowed,
                    )
                )
            session.flush()
            return row.id

    def exports(self) -> list[ExportRecord]:
        """All exports, oldest first."""
        with self._reading() as session:
            members: dict[int, list[int]] = {}
            for export, winner in session.execute(
                select(ExportedWinner.export_id, ExportedWinner.winner_id).order_by(ExportedWinner.winner_id)
            ):
                members.setdefault(export, []).append(winner)
            return [
                ExportRecord(
                    id=row.id,
                    uid=row.uid,
                    host=row.host,
                    bundle_path=row.bundle_path,
                    manifest_hash=row.manifest_hash,
                    winners=tuple(members.get(row.id, ())),
                    unmeasured_allowed=row.unmeasured_allowed,
                    tool_version=row.tool_version,
                    created_at=row.created_at,
                )
                for row in session.scalars(select(Export).order_by(Export.id))
            ]
