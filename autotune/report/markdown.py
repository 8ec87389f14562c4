"""The report as Markdown, short enough for the description of a pull request."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from autotune.problem.layer import Stage
from autotune.report.configs import changes, layer_changes
from autotune.report.content import ProblemReport, Report, by_stack
from autotune.report.effects import effects
from autotune.report.finals import Contender
from autotune.report.query import default_of, equally_fast, fastest
from autotune.report.questions import answers, gain_text
from autotune.report.winners import verdict
from autotune.report.wording import AS_COMPILED, AS_EXECUTED, tie_text
from autotune.results import Status
from autotune.store.store import Store
from autotune.text import counted

_KNOBS = 3


def markdown(store: Store, report: Report) -> str:
    """Tables with the results above, what a reviewer may want to unfold below."""
    lines = [f"## {_cell(report.title)}", ""]
    for stack, problems in by_stack(report):
        versions = ", ".join(
            f"{name} {value}" for name in ("driver", "torch", "triton") if (value := getattr(stack, name))
        )
        lines += [
            f"{_cell(problems[0].problem.layer.key)}, backend {stack.backend}, on **{_cell(stack.device)}**"
            f" ({_cell(', '.join(part for part in (stack.runtime, versions) if part))}).",
            "",
        ]
        for kind in dict.fromkeys(chapter.conditions.kind for chapter in problems):
            lines += [*_table([chapter for chapter in problems if chapter.conditions.kind is kind]), ""]
        limits = {chapter.limit.source for chapter in problems if chapter.limit}
        if limits:
            lines += [f"Byte limit: the expected weights of a step at {'; '.join(sorted(limits))}.", ""]
    for chapter in report.problems:
        lines += _details(store, chapter)
    lines += ["<details><summary>Stack and commands</summary>", ""]
    for stack in report.stacks:
        fields = {name: value for name, value in asdict(stack).items() if value is not None}
        lines += [f"- {_cell(', '.join(f'{name} {value}' for name, value in fields.items()))}"]
    lines += [f"- run {run.id}, {run.started_at:%Y-%m-%d %H:%M} UTC: `{run.command}`" for run in report.runs]
    return "\n".join([*lines, "", "</details>", ""])


def _table(problems: Sequence[ProblemReport]) -> list[str]:
    """Problems of one kind on one stack; columns that would be empty are left out."""
    words = problems[0].words
    heads = [
        "shape",
        "tokens",
        "kind",
        "default µs",
        "published µs",
        f"{words.chosen} µs",
        f"default µs {AS_COMPILED}",
        f"{words.chosen} µs {AS_COMPILED}",
        f"gain of the {words.whole}" + (" (95% CI)" if words.round else ""),
        "ties",
        "of byte limit",
        "changed",
    ]
    rows = [_row(chapter) for chapter in problems]
    kept = [place for place in range(len(heads)) if any(row[place] not in ("", "–") for row in rows)]
    numbers = range(1, len(heads) - 1)
    rules = ["--:" if place in numbers and heads[place] != "kind" else "---" for place in kept]
    return [
        f"| {' | '.join(heads[place] for place in kept)} |",
        f"|{'|'.join(rules)}|",
        *(f"| {' | '.join(_cell(row[place]) for place in kept)} |" for row in rows),
    ]


def _row(chapter: ProblemReport) -> list[str]:
    default, winner = chapter.contender("default"), chapter.contender("winner")
    gain = "no final" if chapter.winner is None else "kept default"
    if winner is not None and winner.gain is not None:
        gain = gain_text(winner.gain.value, winner.gain.low, winner.gain.high)
    chosen, reached = winner or default, ""
    if chapter.limit is not None and chosen is not None and "layer" in chosen.us:
        reached = f"{chapter.limit.fraction('layer', chosen.us['layer'].value):.0%}"
    changed = layer_changes(winner.config, chapter.ships) if winner and chapter.ships else ""
    return [
        chapter.problem.shape,
        str(chapter.problem.tokens),
        " ".join(filter(None, (str(chapter.conditions.kind), chapter.basis))),
        _time(default),
        _time(chapter.contender("published")),
        _time(winner),
        _as_compiled(chapter, default),
        _as_compiled(chapter, winner),
        gain,
        tie_text(len(chapter.ties) + 1) if chapter.ties else "",
        reached,
        f"`{changed}`" if changed else "",
    ]


def _as_compiled(chapter: ProblemReport, contender: Contender | None) -> str:
    """What an estimate as executed was as compiled; "": it is none."""
    if contender is None or chapter.basis != AS_EXECUTED:
        return ""
    us = chapter.compiled_us(contender.config)
    return f"{us['layer']:.2f}" if "layer" in us else ""


def _time(contender: Contender | None) -> str:
    return f"{contender.us['layer'].value:.2f}" if contender is not None and "layer" in contender.us else "–"


def _details(store: Store, report: ProblemReport) -> list[str]:
    decision = verdict(report.winner, len(report.ties)) if report.winner else "nothing was decided"
    lines = [f"<details><summary>{report.problem.shape}: {_html(decision)}</summary>", ""]
    for stage in Stage:
        trials = report.trials[stage]
        if not trials:
            continue
        counts = Counter(trial.status for trial in trials)
        statuses = ", ".join(f"{counts[status]:,} {status}" for status in Status if counts[status])
        knobs = ", ".join(f"`{effect.knob}` {effect.share:.0%}" for effect in effects(trials)[:_KNOBS])
        lines.append(
            f"- {stage}: {counted(len(trials), 'candidate')} ({statuses});"
            f" what mattered: {knobs or 'not known'}"
        )
        best, default = fastest(trials), default_of(trials)
        if best:
            differs = changes(best[0].config, default.config if default else None)
            how = " ".join(filter(None, (report.words.adjective, report.conditions.basis)))
            tie = tie_text(equally_fast(best))
            first = f"{tie} at the fastest time" if tie else "fastest"
            lines.append(f"  - {first} of the search: {best[0].time_us:.2f} µs {how}, `{differs}`")
    ships = report.ships
    left_out = [
        f"failed in the {report.words.final}: {c.name} `{layer_changes(c.config, ships)}`: {c.left_out}"
        for c in report.contenders
        if c.left_out and ships
    ]
    for left in report.left:
        differs = changes(left.config, ships.of(left.stage) if ships else None)
        left_out.append(f"not in the {report.words.final}: {left.stage} `{differs}`: {left.reason}")
    lines += [f"- {_cell(text)}" for text in left_out]
    lines.append("")
    for answer in answers(store, report):
        lines.append(f"- **{answer.question}** {_cell(answer.text)}")
    return [*lines, "", "</details>", ""]


def _cell(text: str) -> str:
    """Text that neither ends a table's cell nor becomes HTML."""
    return _html(text).replace("|", "\\|")


def _html(text: str) -> str:
    return text if text.startswith("`") else text.replace("&", "&amp;").replace("<", "&lt;")
