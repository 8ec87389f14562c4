"""From a bundle on disk back to the winners in the database."""

import hashlib
from pathlib import Path

from autotune.errors import UserError
from autotune.protocol.bundle import MANIFEST
from autotune.store.records import WinnerRecord
from autotune.store.rows import Reader, existing
from autotune.store.schema import Winner
from autotune.store.store import Store
from autotune.store.winners import winner_record


def exported_winners(store: Store, folder: Path) -> list[WinnerRecord]:
    """The winners that a bundle was made from, superseded ones included.

    Raises:
        UserError: the folder is no bundle, or this database did not write it.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UserError(f"{folder} is not a bundle, it has no {MANIFEST}: `autotune export` writes one")
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    export = next((record for record in reversed(store.exports()) if record.manifest_hash == digest), None)
    if export is None:
        raise UserError(
            f"{store.location} knows no bundle like {folder}: name the database that it was exported from"
            " with --db, or export again"
        )
    with store.reading() as session:
        reader = Reader.of(session)
        return [winner_record(reader, existing(session, Winner, id_)) for id_ in export.winners]
