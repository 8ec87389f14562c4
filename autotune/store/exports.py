"""Exports: which winners went into which bundle."""

import socket
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from autotune import __version__
from autotune.store.records import ExportRecord
from autotune.store.schema import Export, ExportedWinner
from autotune.store.sessions import Sessions
from autotune.store.verdicts import stored_winners, wrong_binaries


class Exports(Sessions):
    """The exports of an open database."""

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
            unmeasured_allowed: the user let estimates or replayed times in.

        Raises:
            LookupError: there is no such winner.
            ValueError: a check found a winner's binary wrong.
            sqlalchemy.exc.IntegrityError: a winner is not measured, and that is not allowed.
        """
        with self.writing() as session:
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
            winners = stored_winners(session, exported)
            for winner, reason in zip(winners, wrong_binaries(session, winners), strict=True):
                if reason is not None:
                    raise ValueError(f"winner {winner.id} cannot be exported: {reason}")
                session.add(
                    ExportedWinner(
                        export_id=row.id,
                        winner_id=winner.id,
                        kind=winner.kind,
                        unmeasured_allowed=unmeasured_allowed,
                    )
                )
            session.flush()
            return row.id

    def exports(self) -> list[ExportRecord]:
        """All exports, oldest first."""
        with self.reading() as session:
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
