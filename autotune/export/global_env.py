"""The one process environment for a server that sees every shape, chosen from tables of settings.

Per-shape winners of a backend whose knobs are environment variables contradict each other. What is exported
is a setting that was timed, as a whole, at every shape of the mix and at every guard: chosen by some rounds,
and tested once on others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from autotune.errors import UserError
from autotune.export.settings_table import SettingsTable, gain_text, put_to_test
from autotune.protocol.mix import Mix, MixDecision, decide, even
from autotune.protocol.process_knobs import ProcessKnobs, Setting, setting_text
from autotune.store.records import WinnerRecord
from autotune.text import percent


def choose(table: SettingsTable, mix: Mix, tuned: Sequence[int]) -> MixDecision[Setting]:
    """The setting to export: the best by the rounds to choose by, if it holds in the rounds to test by.

    What loses at a guard there is left out and the next best is tested, until one is safe: only of that one
    the gain counts.

    Args:
        mix: without weights, every tuned shape weighs the same.
        tuned: token counts of the winners.

    Raises:
        UserError: a shape of the mix or a guard was not timed.
    """
    tokens = table.tokens
    if not mix.weights:
        mix = Mix.of(even(tuned), mix.guards, mix.margin)
    missing = sorted({*mix.weights, *mix.guards}.difference(tokens))
    if missing:
        what = "guards" if set(missing) <= set(mix.guards) else "shapes"
        raise UserError(
            f"the {what} {', '.join(map(str, missing))} were not timed, so what a setting of the whole"
            " process does there is not known: repeat autotune run with these --guards and all shapes at"
            " once, or name others here with --guards and --mix"
        )
    decision = decide(table.choosing(), (), mix)
    lines = list(decision.candidates)
    for place, line in enumerate(lines):
        if line.refused or line.setting == ():
            break
        tested = put_to_test(table, line.setting, mix)
        decision = replace(decision, setting=() if tested.failed else line.setting, tested=tested)
        if not tested.unsafe:  # its gain was tested, once and of no other
            break
        lines[place] = replace(line, refused=tested.failed)
    return replace(decision, candidates=tuple(lines))


def deployed(
    winners: Sequence[WinnerRecord], knobs: ProcessKnobs, decision: MixDecision[Setting]
) -> list[WinnerRecord]:
    """The winners with what the setting makes of their shapes in place of their own configs and gains."""
    changed = []
    for winner in winners:
        config = knobs.overlay(winner.default, dict(decision.setting))
        gain = decision.tested.gains.get(winner.problem.tokens) if decision.tested else None
        if config == winner.default or gain is None:
            changed.append(replace(winner, config=config, gain=0.0, gain_low=0.0, gain_high=0.0))
        else:
            changed.append(
                replace(winner, config=config, gain=gain.value, gain_low=gain.low, gain_high=gain.high)
            )
    return changed


def decision_json(decision: MixDecision[Setting]) -> dict[str, Any]:
    """The decision for the manifest."""
    tested = decision.tested
    return {
        "mix": {str(tokens): share for tokens, share in decision.mix.weights.items()},
        "guards": list(decision.mix.guards),
        "margin": decision.mix.margin,
        "notes": list(decision.notes),
        "candidates": [
            {
                "variables": dict(line.setting),
                "gain_of_mix": line.mean,
                "gains": {str(tokens): gain for tokens, gain in line.gains.items()},
                "refused": line.refused,
                "chosen": line.setting == decision.setting,
            }
            for line in decision.candidates
        ],
        "tested": tested
        and {
            "variables": dict(tested.setting),
            "gain_of_mix": tested.mean.value,
            "gain_95": [tested.mean.low, tested.mean.high],
            "gains_95": {str(tokens): [gain.low, gain.high] for tokens, gain in tested.gains.items()},
            "failed": tested.failed,
        },
    }


def decision_lines(decision: MixDecision[Setting]) -> Iterator[str]:
    """The decision table: a line a setting, gains over the default by tokens; then the test of the best."""
    if not decision.candidates:
        yield "Every shape kept the default, so every knob stays unset."
        return
    mix = ", ".join(f"{tokens}: {share:.0%}" for tokens, share in decision.mix.weights.items())
    guards = ", ".join(map(str, decision.mix.guards))
    margin = percent(decision.mix.margin)
    guarded = (
        f"guards {guards} may lose up to {margin}" if guards else "no guards: nothing is known of prefill"
    )
    yield f"One setting for every shape, over the mix {mix}; {guarded}."
    for note in decision.notes:
        yield f"  {note}"
    columns = sorted({*decision.mix.weights, *decision.mix.guards})
    yield "  " + "".join(f"{m:>9}" for m in columns) + f"{'mix':>9}  setting"
    for line in decision.candidates:
        cells = [percent(line.gains[m], signed=True) if m in line.gains else "-" for m in columns]
        mean = "-" if line.mean is None else percent(line.mean, signed=True)
        name = setting_text(line.setting)
        mark = "chosen: " if line.setting == decision.setting else ""
        why = f" (refused: {line.refused})" if line.refused else ""
        yield "  " + "".join(f"{cell:>9}" for cell in cells) + f"{mean:>9}  {mark}{name}{why}"
    if decision.tested:
        tested = decision.tested
        end = f"kept default: {tested.failed}" if tested.failed else "confirmed"
        setting, gain = setting_text(tested.setting), gain_text(tested.mean)
        yield f"  Tested on other routings: {setting}: mix {gain}; {end}"
        for tokens, interval in tested.gains.items():
            yield f"    {tokens:>6} tokens {gain_text(interval)}"
