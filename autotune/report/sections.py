"""The parts of the page that stand for one problem: its final, its stages, its doubts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
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
from autotune.report.query import default_of, equally_fast, fastest
from autotune.report.questions import AnsweredQuestion, gain_text
from autotune.report.wording import AS_COMPILED, AS_EXECUTED, tie_text
from autotune.results import LayerConfig, StaticFacts, Status
from autotune.space.config import value_text
from autotune.store.records import StoredTrial
from autotune.text import counted, percent

_TOP = 15
_REASONS = 8
_OTHERS = 4  # contenders beside those with a name in a chart
_IMPORTANCE = (
    "Importance is estimated: epsilon squared of log time over the tried configs, one knob at a time."
    " The search stays where it is fast, so a knob that it soon settled looks less important than it is."
)
_SEEDS = ("published", "earlier", "seed")


def final(chapter: ProblemReport) -> list[Markup]:
    """The contenders' times as charts and as a table."""
    if not chapter.contenders:
        return [tag("p", "Nothing was decided here: there was no final.")]
    words = chapter.words
    parts = []
    for what in ("layer", *Stage):
        timed = [c for c in chapter.contenders if what in c.us]
        if not timed:
            continue
        named = [c for c in timed if c.label != "candidate"]
        others = [c for c in timed if c.label == "candidate"]
        if isinstance(what, Stage) and chapter.conditions.kind is Kind.ESTIMATE:
            # A stage's estimate is its config's: layers that share it would be the same row again and again.
            known = {c.config.of(what) for c in named}
            others = list({c.config.of(what): c for c in others if c.config.of(what) not in known}.values())
        shown = [*named, *others[:_OTHERS]]
        marks = [Mark(c.label, who(chapter, c), c.us[what]) for c in shown]
        interval = f", median and 95% CI of the {words.round}s" if words.round else ""
        parts.append(interval_chart(marks, f"{_what(chapter, what)}: µs {_kind(chapter)}{interval}"))
    parts.append(_of_limit(chapter))
    compiled = chapter.basis == AS_EXECUTED
    rows = [
        [
            who(chapter, c),
            gain_text(c.gain.value, c.gain.low, c.gain.high) if c.gain else "–",
            f"{c.us['layer'].value:.2f}" if compiled and "layer" in c.us else "",
            f"{us['layer']:.2f}" if compiled and "layer" in (us := chapter.compiled_us(c.config)) else "",
            "" if c.error is None else f"{c.error:.1e}",
            _rounds(chapter, c),
            c.left_out,
            layer_code(c.config, chapter.ships) if chapter.ships else "",
        ]
        for c in chapter.contenders
    ]
    heads = [
        "",
        "gain",
        f"µs {AS_EXECUTED}",
        f"µs {AS_COMPILED}",
        "gate error",
        f"{words.round}s",
        "failed",
        "changed from the default",
    ]
    caption = f"All {words.contenders}: {words.adjective} gain of the {words.whole}"
    parts.append(table(heads, rows, caption=caption, right=(1, 2, 3, 4), config=7))
    if chapter.left:
        parts.append(details(f"Among the fastest of a stage, but not in the {words.final}", _left(chapter)))
    return parts


def _left(chapter: ProblemReport) -> Markup:
    """Configs that the search found fast and no finalist has, with why."""
    rows = [
        [
            str(left.stage),
            "" if left.us is None else f"{left.us:.2f}",
            left.reason,
            _config(changes(left.config, chapter.ships.of(left.stage) if chapter.ships else None)),
        ]
        for left in chapter.left
    ]
    heads = ["stage", "µs", "why", "changed from the default"]
    return table(heads, rows, caption=f"µs of the search, {_kind(chapter)}", right=(1,), config=3)


def _what(chapter: ProblemReport, what: str) -> str:
    return chapter.words.whole if what == "layer" else str(what)


def _kind(chapter: ProblemReport, basis: str | None = None) -> str:
    """`measured`, `replayed`, `estimated as executed`."""
    return " ".join(filter(None, (chapter.words.adjective, chapter.basis if basis is None else basis)))


def who(chapter: ProblemReport, contender: Contender) -> str:
    """A contender's name. What ties with the first is not passed over as one that lost."""
    if contender.label == "default":
        return "default, ties" if contender in chapter.ties else "default"
    if contender.label == "winner":
        return f"{chapter.words.chosen}, ties" if chapter.ties else chapter.words.chosen
    return f"{contender.name}, ties" if contender in chapter.ties else contender.name


def layer_code(config: LayerConfig, ships: LayerConfig) -> Markup:
    """Where a layer differs from the default, a line a stage."""
    return join([_config(line) for line in layer_changes(config, ships).split("; ")])


def _config(text: str) -> Markup:
    """A config as code, which breaks after a comma and not within a knob's name where it can."""
    parts = text.split(",")
    return tag("code", parts[0], *(join(Markup(",<wbr>"), part) for part in parts[1:]))


def _rounds(chapter: ProblemReport, contender: Contender) -> str:
    if not contender.rounds:
        return ""
    return f"{contender.rounds} ({'final' if contender.decided else 'preselection'})"


def _of_limit(chapter: ProblemReport) -> Markup:
    """How near the default, the published config and the chosen one come to what memory allows."""
    limit = chapter.limit
    if limit is None:
        return join()
    named = [c for c in chapter.contenders if c.label != "candidate"]
    names = {"winner": chapter.words.chosen}
    bars = [
        Bar(
            c.label,
            f"{_what(chapter, what)}, {names.get(c.label, c.label)}",
            limit.fraction(what, c.us[what].value),
            f"of {limit.us[what]:.2f} µs",
        )
        for what in ("layer", *Stage)
        for c in named
        if what in c.us
    ]
    mb = ", ".join(f"{what} {limit.megabytes[what]:.0f} MB" for what in Stage)
    title = f"Fraction of the byte limit reached (time {_kind(chapter)}; weights of {mb} at {limit.source})"
    return bar_chart(bars, title) if bars else join()


def stage_section(chapter: ProblemReport, stage: Stage, anchor: str) -> list[Markup]:
    """Progress, what mattered, heat maps, candidates, failures and facts of a stage."""
    trials = chapter.trials[stage]
    if not trials:
        return []
    kind, device = _kind(chapter, chapter.conditions.basis), chapter.conditions.environment.device
    timed = fastest(trials)
    parts = [
        tag("h3", f"{chapter.problem.shape} {stage}: search ", badge(chapter.conditions.kind), id=anchor)
    ]
    if timed:
        parts.append(_progress(chapter, stage, kind))
        ties = tie_text(equally_fast(timed))
        if ties:
            parts.append(tag("p", f"{ties} at the fastest time, {timed[0].time_us:.2f} µs {kind}."))
        ranked = effects(trials)
        if ranked:
            parts.append(
                importance_chart(
                    ranked,
                    f"What mattered: share of the differences in time, {kind}, that a knob explains alone",
                )
            )
            parts.append(tag("p", _IMPORTANCE, class_="note"))
            parts.append(_marginals(trials, kind))
        maps = heat_maps(trials)
        if maps:
            parts.append(tag("div", [heat_map(heat) for heat in maps], class_="heats"))
        parts.append(
            details(
                f"The fastest {min(_TOP, len(timed))} of {counted(len(timed), 'candidate')}",
                _top(trials, timed, kind, device),
            )
        )
    executed = chapter.executed.get(stage, ())
    if executed:
        parts.append(
            details(
                f"Estimated again by execution: {counted(len(executed), 'config')}", _executed(chapter, stage)
            )
        )
    parts.append(details(f"{counted(len(trials), 'candidate')} by status, with reasons", _statuses(trials)))
    facts = _facts(chapter, stage, timed)
    if facts:
        parts.append(details("Compiled code of the default and of the fastest, side by side", facts))
    errors = _errors([*trials, *executed])
    if errors:
        parts.append(details("Errors in the numeric gate", errors))
    return parts


def _executed(chapter: ProblemReport, stage: Stage) -> Markup:
    """How execution changed the estimates of a stage's short list."""
    default = default_of(chapter.trials[stage])
    compiled = {trial.config: trial.time_us for trial in chapter.trials[stage]}
    rows = [
        [
            "default" if default and trial.config == default.config else "listed",
            f"{trial.time_us:.2f}",
            f"{us:.2f}" if (us := compiled.get(trial.config)) else "",
            _config(changes(trial.config, default.config if default else None)),
        ]
        for trial in fastest(chapter.executed[stage])
    ]
    heads = ["", f"µs {AS_EXECUTED}", f"µs {AS_COMPILED}", "changed from the default"]
    return table(heads, rows, caption="The same configs, two estimates", right=(1, 2), config=3)


def badge(kind: Kind) -> Markup:
    """A kind in its frame."""
    return tag("span", str(kind), class_=f"kind {kind}")


def _progress(chapter: ProblemReport, stage: Stage, kind: str) -> Markup:
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    samplers = set()
    line, failed, best = [], [], float("inf")
    for number, trial in enumerate(chapter.trials[stage]):
        if trial.time_us is None:
            failed.append(float(number))
            continue
        best = min(best, trial.time_us)
        line.append((float(number), best))
        name = trial.origin if trial.origin in ("default", "neighbour") else "joint"
        if trial.origin in _SEEDS:
            name = "seed"
        elif name == "joint":
            samplers.add(trial.origin)
        groups[name].append((float(number), trial.time_us))
    texts = {
        "neighbour": "neighbour of the best",
        "joint": ", ".join(sorted(samplers)),
        "seed": "published or earlier winner",
        "default": "default",
    }
    dots = [Dots(name, f"{text} ({len(groups[name]):,})", groups[name]) for name, text in texts.items()]
    levels = {}
    default = default_of(chapter.trials[stage])
    if default is not None and default.time_us is not None:
        levels["default"] = default.time_us
    if chapter.limit is not None:
        levels["limit"] = chapter.limit.us[str(stage)]
    title = f"Progress of the search: µs per launch of each candidate, {kind}"
    return scatter(
        dots,
        line,
        failed,
        levels=levels,
        title=title,
        x_text="candidates in the order of trying",
        y_text=f"µs per launch, {kind},",
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
            f"{trial.time_us:.2f}",
            percent(1 - trial.time_us / default.time_us, signed=True)
            if default and default.time_us and trial.time_us
            else "",
            trial.origin,
            _config(changes(trial.config, default.config if default else None)),
        ]
        for trial in timed[:_TOP]
    ]
    lucky = ": the fastest of many noisy times is too good to be true" if kind == "measured" else ""
    heads = ["trial", "µs", "vs default", "origin", "changed from the default"]
    caption = f"{kind} on {device} during the search{lucky}"
    return table(heads, rows, caption=caption, right=(1, 2), config=4)


def _statuses(trials: Sequence[StoredTrial]) -> Markup:
    reasons: dict[Status, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        reasons[trial.status][trial.reason or ""] += 1
    rows = []
    for status in sorted(reasons, key=lambda status: -reasons[status].total()):
        commonest = reasons[status].most_common(_REASONS)
        rest = reasons[status].total() - sum(count for _, count in commonest)
        texts = [f"{count:,} × {reason}" for reason, count in commonest if reason]
        texts += [f"{rest:,} × other reasons"] if rest else []
        lines = [tag("div", text) for text in texts]
        total = reasons[status].total()
        share = total / len(trials)
        rows.append([str(status), f"{total:,}", f"{share:.0%}" if share >= 0.01 else "<1%", join(lines)])
    heads = ["status", "candidates", "share", "reasons"]
    return table(heads, rows, caption="Candidates", right=(1, 2), config=3)


def _facts(chapter: ProblemReport, stage: Stage, timed: Sequence[StoredTrial]) -> Markup | None:
    trials = {trial.config: trial for trial in chapter.trials[stage]}
    winner = chapter.contender("winner")
    columns: dict[str, StoredTrial | None] = {
        "default": default_of(chapter.trials[stage]),
        chapter.words.chosen: trials.get(winner.config.of(stage)) if winner else None,
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


def doubts(answers: Sequence[AnsweredQuestion]) -> Markup:
    """Questions with answers."""
    return tag("dl", [join(tag("dt", answer.question), tag("dd", answer.text)) for answer in answers])
