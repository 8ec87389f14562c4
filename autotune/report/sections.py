"""The parts of the page that stand for one problem: its final, its stages, its doubts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from autotune.config import value_text
from autotune.problem import Stage
from autotune.report.charts import (
    Bar,
    Dots,
    Mark,
    bar_chart,
    heat_map,
    importance_chart,
    interval_chart,
    scatter,
)
from autotune.report.configs import changes, layer_changes
from autotune.report.content import ProblemReport
from autotune.report.effects import effects, heat_maps
from autotune.report.finals import Contender
from autotune.report.markup import Markup, details, join, table, tag
from autotune.report.query import default_of, fastest
from autotune.report.sceptic import Answer, gain_text
from autotune.report.text_table import percent
from autotune.results import Kind, StaticFacts, Status
from autotune.store.records import StoredTrial

_TOP = 15
_REASONS = 8
_OTHERS = 4  # contenders beside those with a name in a chart
_IMPORTANCE = (
    "Importance is estimated: epsilon squared of log time over the tried configs, one knob at a time."
    " The search stays where it is fast, so a knob that it soon settled looks less important than it is."
)
_ADJECTIVE = {Kind.MEASURED: "measured", Kind.ESTIMATE: "estimated", Kind.REPLAYED: "replayed"}
_SEEDS = ("published", "earlier", "seed")


def final(one: ProblemReport) -> list[Markup]:
    """The contenders' times as charts and as a table."""
    if not one.contenders:
        return [tag("p", "Nothing was decided here: there was no final.")]
    kind = str(one.conditions.kind)
    made = []
    for what in ("layer", *Stage):
        timed = [c for c in one.contenders if what in c.us]
        if not timed:
            continue
        named = [c for c in timed if c.label != "candidate"]
        shown = [*named, *[c for c in timed if c.label == "candidate"][:_OTHERS]]
        marks = [Mark(c.label, _who(c), c.us[what]) for c in shown]
        interval = ", median and 95 % interval" if one.conditions.kind is not Kind.ESTIMATE else ""
        made.append(interval_chart(marks, f"{what}: {kind} µs{interval}"))
    made.append(_of_limit(one))
    rows = [
        [
            _who(c),
            gain_text(c.gain.value, c.gain.low, c.gain.high) if c.gain else "–",
            "" if c.error is None else f"{c.error:.1e}",
            _rounds(c),
            tag("code", layer_changes(c.config, one.ships)) if one.ships else "",
        ]
        for c in one.contenders
    ]
    heads = ["", "gain of the layer", "gate error", "rounds", "differs from what ships in"]
    caption = f"Everybody in the {'final' if one.confirmation else 'short list'}, {kind}"
    return [*made, table(heads, rows, caption=caption, right=(1, 2))]


def _who(one: Contender) -> str:
    return {"default": "default (ships)", "candidate": "also ran"}.get(one.label, one.label)


def _rounds(one: Contender) -> str:
    if not one.rounds:
        return "" if one.error is None else "not timed"
    return f"{one.rounds} that decided" if one.decided else f"{one.rounds} that chose"


def _of_limit(one: ProblemReport) -> Markup:
    """How near the default, the published config and the winner come to what memory allows."""
    limit = one.limit
    if limit is None:
        return join()
    named = [c for c in one.contenders if c.label != "candidate"]
    bars = [
        Bar(
            c.label,
            f"{what}, {c.label}",
            limit.fraction(what, c.us[what].value),
            f"of {limit.us[what]:.2f} µs",
        )
        for what in ("layer", *Stage)
        for c in named
        if what in c.us
    ]
    mb = ", ".join(f"{what} {limit.megabytes[what]:.0f} MB" for what in Stage)
    timed = f"{_ADJECTIVE[one.conditions.kind]} time"
    title = f"Fraction of the byte limit reached ({timed}; weights of {mb} at {limit.source})"
    return bar_chart(bars, title) if bars else join()


def stage_section(one: ProblemReport, stage: Stage, anchor: str) -> list[Markup]:
    """Progress, what mattered, heat maps, candidates, failures and facts of a stage."""
    trials = one.trials[stage]
    if not trials:
        return []
    kind, device = str(one.conditions.kind), one.conditions.environment.device
    timed = fastest(trials)
    made = [tag("h3", f"{one.problem.shape} {stage}: search ", _badge(kind), id=anchor)]
    if timed:
        made.append(_progress(one, stage, kind))
        found = effects(trials)
        if found:
            made.append(
                importance_chart(
                    found,
                    f"What mattered: share of the differences in {_ADJECTIVE[one.conditions.kind]} time"
                    " that each knob explains by itself",
                )
            )
            made.append(tag("p", _IMPORTANCE, class_="note"))
            made.append(_marginals(trials, kind))
        maps = heat_maps(trials)
        if maps:
            made.append(tag("div", [heat_map(heat) for heat in maps], class_="heats"))
        made.append(
            details(
                f"The fastest {min(_TOP, len(timed))} of {len(timed):,} candidates",
                _top(trials, timed, kind, device),
            )
        )
    made.append(details(f"All {len(trials):,} candidates by status, with reasons", _statuses(trials)))
    facts = _facts(one, stage, timed)
    if facts:
        made.append(details("Compiled code: what ships, the winner and the fastest of the search", facts))
    errors = _errors(trials)
    if errors:
        made.append(details("Errors in the numeric gate", errors))
    return made


def _badge(kind: str) -> Markup:
    return tag("span", kind, class_=f"kind {kind}")


def _progress(one: ProblemReport, stage: Stage, kind: str) -> Markup:
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    samplers = set()
    line, failed, best = [], [], float("inf")
    for number, trial in enumerate(one.trials[stage]):
        if trial.figure_us is None:
            failed.append(float(number))
            continue
        best = min(best, trial.figure_us)
        line.append((float(number), best))
        name = trial.origin if trial.origin in ("default", "neighbour") else "joint"
        if trial.origin in _SEEDS:
            name = "seed"
        elif name == "joint":
            samplers.add(trial.origin)
        groups[name].append((float(number), trial.figure_us))
    texts = {
        "neighbour": "neighbour of the best",
        "joint": ", ".join(sorted(samplers)),
        "seed": "published or earlier winner",
        "default": "default (ships)",
    }
    dots = [Dots(name, f"{text} ({len(groups[name]):,})", groups[name]) for name, text in texts.items()]
    levels = {}
    default = default_of(one.trials[stage])
    if default is not None and default.figure_us is not None:
        levels["default"] = default.figure_us
    # A limit far below would squeeze everything else into the top of the chart.
    if one.limit is not None and one.limit.us[str(stage)] > best / 3:
        levels["limit"] = one.limit.us[str(stage)]
    title = f"Progress of the search: {_ADJECTIVE[one.conditions.kind]} µs a launch of each candidate"
    return scatter(
        dots,
        line,
        failed,
        levels=levels,
        title=title,
        x_text="candidates in the order of trying",
        y_text=f"{kind} µs",
    )


def _marginals(trials: Sequence[StoredTrial], kind: str) -> Markup:
    rows = []
    for effect in effects(trials):
        for index, value in enumerate(effect.values):
            rows.append(
                [
                    effect.knob if index == 0 else "",
                    tag("code", value_text(value.value)),
                    f"{value.count:,}",
                    f"{value.best_us:.2f}",
                    f"{value.median_us:.2f}",
                ]
            )
    heads = ["knob", "value", "configs", "fastest µs", "median µs"]
    return details("Every value of every knob", table(heads, rows, caption=f"{kind} µs", right=(2, 3, 4)))


def _top(trials: Sequence[StoredTrial], timed: Sequence[StoredTrial], kind: str, device: str) -> Markup:
    default = default_of(trials)
    rows = [
        [
            str(trial.id),
            f"{trial.figure_us:.2f}",
            percent(1 - trial.figure_us / default.figure_us)
            if default and default.figure_us and trial.figure_us
            else "",
            trial.origin,
            tag("code", changes(trial.config, default.config if default else None)),
        ]
        for trial in timed[:_TOP]
    ]
    caption = (
        f"{kind} on {device} during the search: the fastest of many noisy figures is too good to be true"
    )
    heads = ["trial", "µs", "vs default", "origin", "differs from what ships in"]
    return table(heads, rows, caption=caption, right=(1, 2))


def _statuses(trials: Sequence[StoredTrial]) -> Markup:
    reasons: dict[Status, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        reasons[trial.status][trial.reason or ""] += 1
    rows = []
    for status in sorted(reasons, key=lambda status: -reasons[status].total()):
        found = reasons[status].most_common(_REASONS)
        rest = reasons[status].total() - sum(count for _, count in found)
        texts = [f"{count:,} × {reason}" for reason, count in found if reason]
        texts += [f"{rest:,} × other reasons"] if rest else []
        lines = [tag("div", text) for text in texts]
        total = reasons[status].total()
        rows.append([str(status), f"{total:,}", f"{total / len(trials):.0%}", join(lines)])
    return table(["status", "candidates", "share", "reasons"], rows, caption="Candidates", right=(1, 2))


def _facts(one: ProblemReport, stage: Stage, timed: Sequence[StoredTrial]) -> Markup | None:
    trials = {trial.config: trial for trial in one.trials[stage]}
    winner = one.contender("winner")
    columns: dict[str, StoredTrial | None] = {
        "default (ships)": default_of(one.trials[stage]),
        "winner": trials.get(winner.config.of(stage)) if winner else None,
        "fastest of the search": timed[0] if timed else None,
    }
    known = {name: asdict(trial.facts) for name, trial in columns.items() if trial is not None}
    names = [
        name for name in asdict(StaticFacts()) if any(facts[name] is not None for facts in known.values())
    ]
    if not names:
        return None
    rows = [
        [name, *("" if facts[name] is None else f"{facts[name]:,}" for facts in known.values())]
        for name in names
    ]
    caption = "Read from the machine code; what this target's code does not tell is left out"
    return table(["fact", *known], rows, caption=caption, right=range(1, len(known) + 1))


def _errors(trials: Sequence[StoredTrial]) -> Markup | None:
    rows = []
    for status in (Status.OK, Status.INCORRECT):
        errors = sorted(t.gate_error for t in trials if t.status is status and t.gate_error is not None)
        if errors:
            middle = errors[len(errors) // 2]
            rows.append(
                [str(status), f"{len(errors):,}", *(f"{e:.2e}" for e in (errors[0], middle, errors[-1]))]
            )
    heads = ["status", "candidates", "least", "median", "greatest"]
    caption = "Relative error ‖out − reference‖ / ‖reference‖, the worst of the gate's cases"
    return table(heads, rows, caption=caption, right=(1, 2, 3, 4)) if rows else None


def doubts(found: Sequence[Answer]) -> Markup:
    """Questions with answers."""
    return tag("dl", [join(tag("dt", one.question), tag("dd", one.text)) for one in found])
