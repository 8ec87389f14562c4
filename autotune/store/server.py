"""Connections to a database server: made anew, and waited for, where one is restarted under a run."""

import sys
import time
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import Dialect

from autotune.errors import UserError
from autotune.processes import interrupt
from autotune.store.location import Location, cannot_reach

CONNECT_S: Final = 10
PATIENCE_S: Final = 600.0
"""How long a server that was there is waited for: a run of hours is not to end because it is restarted."""
_LAST_S: Final = 5.0  # once a wait was in vain, or the run is being ended
_LOOK_EVERY_S: Final = 0.5


class Connections:
    """Makes an engine's connections. The first has to succeed at once, else `UserError`."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._reached = False
        self._patience = PATIENCE_S

    def listen(self, engine: Engine) -> None:
        """From now on `engine` connects so."""
        event.listen(engine, "do_connect", self._connect)

    def _connect(self, dialect: Dialect, _: Any, arguments: Any, options: dict[str, Any]) -> Any:
        options.setdefault("connect_timeout", CONNECT_S)  # the library's own would take two minutes
        started, told = time.monotonic(), False
        while True:
            try:
                connection = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.Error as error:
                waited = time.monotonic() - started
                patience = min(self._patience, _LAST_S) if interrupt.ended() else self._patience
                if not self._reached or waited > patience:
                    self._patience = min(patience, _LAST_S)  # what comes next is to end soon
                    raise UserError(cannot_reach(error, self._location)) from error
            else:
                self._reached = True
                return connection
            interrupt.look()
            if not told:
                told = True
                print(
                    f"{self._location} is gone: waiting for its server, up to {self._patience / 60:.0f} min;"
                    " Ctrl-C stops",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(_LOOK_EVERY_S)
