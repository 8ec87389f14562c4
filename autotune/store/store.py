"""The store: typed access to the database. Records go in and come out; sessions stay inside."""

from autotune.store.calibrations import Calibrations
from autotune.store.claims import Claims
from autotune.store.confirmations import Confirmations
from autotune.store.exports import Exports
from autotune.store.forgetting import Forgetting
from autotune.store.layers import Layers
from autotune.store.runs import Runs
from autotune.store.shortlists import ShortLists
from autotune.store.trials import Trials
from autotune.store.verdicts import Verdicts
from autotune.store.winners import Winners


class Store(
    Runs,
    Trials,
    Layers,
    Calibrations,
    Claims,
    Confirmations,
    Winners,
    ShortLists,
    Exports,
    Verdicts,
    Forgetting,
):
    """An open database: `with Store.open() as store: ...`.

    A method that writes has committed when it returns. Every method raises UserError for what a user can
    mend about the file: read-only, locked, full.
    """
