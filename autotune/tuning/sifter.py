"""Sifts an offline short list: what its own machine code shows to be wrong never reaches the card."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.check.judged import Candidate, Checks, Judged
from autotune.problem.layer import Problem, Stage
from autotune.results import LayerConfig
from autotune.space.config import Config
from autotune.store.store import Store


class Sifter:
    """Checks the layer configs of short lists; a stage's config is checked once a problem.

    Attributes:
        judged: every verdict that was asked for.
    """

    def __init__(self, checks: Checks, store: Store, backend: str, environment_key: str) -> None:
        self._checks, self._store = checks, store
        self._backend, self._environment = backend, environment_key
        self.judged: dict[tuple[Problem, Stage, Config], Judged] = {}

    def sift(
        self, problem: Problem, ranking: Sequence[LayerConfig], default: LayerConfig, most: int
    ) -> list[LayerConfig]:
        """The best `most` layer configs that no check finds wrong, and the default unless it is.

        What could not be judged stays: nothing is known against it.

        Args:
            ranking: all layer configs, the best first.
        """
        while True:
            kept = [config for config in ranking if not self._wrong(problem, config)][:most]
            listed = list(dict.fromkeys([*kept, *([] if self._wrong(problem, default) else [default])]))
            new = {
                (problem, stage, config.of(stage)): "default" if config == default else "short list"
                for config in [default, *listed]
                for stage in Stage
                if (problem, stage, config.of(stage)) not in self.judged
            }
            if not new:
                return listed
            judged = self._checks.judge(
                Candidate(problem, stage, config, label, self._binary(problem, stage, config))
                for (problem, stage, config), label in new.items()
            )
            self.judged |= dict(zip(new, judged, strict=True))

    def _wrong(self, problem: Problem, config: LayerConfig) -> bool:
        found = (self.judged.get((problem, stage, config.of(stage))) for stage in Stage)
        return any(judged is not None and judged.wrong for judged in found)

    def _binary(self, problem: Problem, stage: Stage, config: Config) -> str | None:
        """The hash of the config's newest binary in this environment."""
        trials = self._store.trials(
            problem=problem,
            stage=stage,
            backend=self._backend,
            environment_key=self._environment,
            workload=None,
            config=config,
        )
        return trials[-1].binary_hash if trials else None
