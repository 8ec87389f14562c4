"""Confirmations: paired rounds on fresh routings, the only source of a reported gain."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.results import SETTING, Confirmation, Finalist, Round
from autotune.store.records import StoredConfirmation
from autotune.store.rows import (
    Reader,
    chunks,
    environment_id,
    existing,
    gpu_columns,
    layer_config,
    next_number,
    problem_id,
    storable_error,
    stored_gpu,
)
from autotune.store.schema import ConfirmationRow, FinalistRow, RoundRow
from autotune.store.sessions import Sessions


class Confirmations(Sessions):
    """The confirmations of an open database."""

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
        with self.writing() as session:
            return _add(session, run, confirmation, backend, environment, workload, kind)

    def confirmation(self, confirmation: int) -> StoredConfirmation:
        """The confirmation with an id.

        Raises:
            LookupError: there is none.
        """
        with self.reading() as session:
            return _records(session, [existing(session, ConfirmationRow, confirmation)])[0]

    def confirmations(self, ids: Collection[int]) -> dict[int, StoredConfirmation]:
        """Those of these ids that there are, each table asked for all of them at once."""
        with self.reading() as session:
            return {
                stored.id: stored
                for chunk in chunks(ids)
                for stored in _records(
                    session,
                    session.scalars(select(ConfirmationRow).where(ConfirmationRow.id.in_(chunk))).all(),
                )
            }

    def tables(self, run: int) -> list[StoredConfirmation]:
        """What a run timed to choose one setting of the process for all shapes, in its order."""
        filled = (
            select(ConfirmationRow)
            .where(
                ConfirmationRow.run_id == run,
                ConfirmationRow.id.in_(
                    select(FinalistRow.confirmation_id).where(FinalistRow.label.startswith(SETTING))
                ),
            )
            .order_by(ConfirmationRow.number)
        )
        with self.reading() as session:
            return _records(session, session.scalars(filled).all())


def _add(
    session: Session,
    run: int,
    confirmation: Confirmation,
    backend: str,
    environment: Fingerprint,
    workload: str,
    kind: Kind,
) -> int:
    """Writes a confirmation with its finalists and every round's times; returns its id."""
    row = ConfirmationRow(
        run_id=run,
        number=next_number(session, ConfirmationRow, run),
        environment_id=environment_id(session, environment),
        problem_id=problem_id(session, confirmation.problem),
        backend=backend,
        workload=workload,
        kind=kind,
        winner=confirmation.winner,
        gain=confirmation.gain,
        gain_low=confirmation.gain_low,
        gain_high=confirmation.gain_high,
        notes=list(confirmation.notes),
        **gpu_columns(confirmation.gpu),
        created_at=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    for position, (finalist, error) in enumerate(
        zip(confirmation.finalists, confirmation.errors, strict=True)
    ):
        session.add(
            FinalistRow(
                confirmation_id=row.id,
                position=position,
                label=finalist.label,
                stage1_config=finalist.config.stage1.key,
                stage2_config=finalist.config.stage2.key,
                error=storable_error(error),
                passed=error is not None,
            )
        )
    session.flush()
    session.add_all(
        RoundRow(confirmation_id=row.id, number=number, position=position, part=part, us=us)
        for number, round_ in enumerate(confirmation.rounds)
        for position, parts in enumerate(round_.us)
        for part, us in parts.items()
    )
    session.flush()
    return row.id


def _records(session: Session, rows: Sequence[ConfirmationRow]) -> list[StoredConfirmation]:
    reader, ids = Reader.of(session), [row.id for row in rows]
    finalists: defaultdict[int, list[FinalistRow]] = defaultdict(list)
    put_to_test = select(FinalistRow).where(FinalistRow.confirmation_id.in_(ids))
    for finalist in session.scalars(put_to_test.order_by(FinalistRow.position)):
        finalists[finalist.confirmation_id].append(finalist)
    # Columns rather than objects: a final has hundreds.
    columns = (RoundRow.confirmation_id, RoundRow.number, RoundRow.position, RoundRow.part, RoundRow.us)
    timed: defaultdict[int, dict[int, list[dict[str, float]]]] = defaultdict(dict)
    for final, number, position, part, us in session.execute(
        select(*columns).where(RoundRow.confirmation_id.in_(ids))
    ):
        rounds = timed[final]
        if number not in rounds:
            rounds[number] = [{} for _ in finalists[final]]
        rounds[number][position][part] = us
    return [_record(reader, row, finalists[row.id], timed[row.id]) for row in rows]


def _record(
    reader: Reader,
    row: ConfirmationRow,
    finalists: Sequence[FinalistRow],
    rounds: Mapping[int, Sequence[dict[str, float]]],
) -> StoredConfirmation:
    confirmation = Confirmation(
        problem=reader.problem(row.problem_id),
        finalists=tuple(
            Finalist(finalist.label, layer_config(finalist.stage1_config, finalist.stage2_config))
            for finalist in finalists
        ),
        rounds=tuple(Round(tuple(rounds[number])) for number in sorted(rounds)),
        errors=tuple(finalist.error for finalist in finalists),
        winner=row.winner,
        gain=row.gain,
        gain_low=row.gain_low,
        gain_high=row.gain_high,
        notes=tuple(row.notes),
        gpu=stored_gpu(row.host, row.gpu),
    )
    return StoredConfirmation(
        id=row.id,
        run=row.run_id,
        backend=row.backend,
        environment=reader.environment(row.environment_id, row.run_id),
        workload=row.workload,
        kind=row.kind,
        confirmation=confirmation,
        created_at=row.created_at,
    )
