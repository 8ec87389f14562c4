"""How searches close in on the optimum, as a picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autotune.errors import UserError
from bench.scoring import Recording, Run

_AT = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 400)


def plot_convergence(
    runs: Mapping[tuple[str, str], Mapping[int, Run]], problems: Mapping[str, Recording], path: Path
) -> None:
    """Median fraction of the optimum after so many evaluations, one panel a problem, one line a searcher.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("--plot needs matplotlib: pip install matplotlib") from error
    columns = min(4, len(problems))
    rows = -(-len(problems) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).flatten()
    for axis, (name, problem) in zip(axes, problems.items(), strict=False):
        for (of, searcher), found in sorted(runs.items()):
            if of != name:
                continue
            curves = [run.fractions(problem, _AT) for run in found.values()]
            ours = searcher == "autotune"
            axis.plot(_AT, np.median(curves, axis=0), label=searcher, linewidth=2.5 if ours else 1)
        axis.set_title(name, fontsize=9)
        axis.set_xscale("log")
        axis.set_ylim(0.5, 1.01)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.supxlabel("evaluations")
    figure.supylabel("optimum / best so far, median over seeds")
    figure.savefig(path, dpi=110)
