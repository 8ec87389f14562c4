"""The report as one HTML file: no network, no script, readable from a disk, on paper and on a phone."""

from collections.abc import Sequence
from dataclasses import asdict

from autotune import __version__
from autotune.machine.fingerprint import Fingerprint
from autotune.machine.targets import Kind
from autotune.problem.layer import Stage
from autotune.report.content import ProblemReport, Report, by_stack
from autotune.report.embed import stylesheet
from autotune.report.finals import Contender
from autotune.report.markup import Markup, details, join, table, tag
from autotune.report.questions import answers, gain_text
from autotune.report.sections import badge, doubts, final, layer_code, stage_section
from autotune.report.winners import verdict
from autotune.report.wording import AS_COMPILED, AS_EXECUTED, ESTIMATES, tie_text, ties_text, wording
from autotune.store.store import Store
from autotune.text import counted, duration, percent

_OPEN = 2
"""Problems up to which a page opens whole; with more, each is folded under what came of it."""


def page(store: Store, report: Report) -> str:
    """The whole page; equal databases give equal pages."""
    anchors = {id(chapter): f"p{index}" for index, chapter in enumerate(report.problems)}
    folded = len(report.problems) > _OPEN
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#summary", class_="skip"),
        _header(report, anchors),
        tag(
            "main",
            _summary(report),
            [
                _problem(store, chapter, anchors[id(chapter)], _name(chapter, report), folded)
                for chapter in report.problems
            ],
            _stacks(report),
            _runs(report),
            _words(report),
        ),
        _footer(),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"autotune: {report.title}"),
        tag("style", Markup(stylesheet())),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(report: Report, anchors: dict[int, str]) -> Markup:
    links = [("#summary", "Summary")]
    links += [(f"#{anchors[id(chapter)]}", _name(chapter, report)) for chapter in report.problems]
    links += [("#stack", "Stack"), ("#runs", "Runs"), ("#words", "Words")]
    items = [tag("li", tag("a", text, href=where)) for where, text in links]
    return tag(
        "header",
        tag("p", "autotune report", class_="note"),
        tag("h1", report.title),
        [tag("p", text, class_="lede") for text in _lede(report)],
        tag("nav", tag("ul", items), aria_label="Parts of the report"),
    )


def _lede(report: Report) -> list[str]:
    """The result in a sentence or two."""
    layers = sorted({chapter.problem.layer.key for chapter in report.problems})
    devices = sorted({stack.device for stack in report.stacks})
    sentences = [f"{', '.join(layers)} on {', '.join(devices)}: {counted(report.candidates, 'candidate')}."]
    decided = [chapter for chapter in report.problems if chapter.winner]
    if len(decided) <= 2:
        sentences += [f"{_name(chapter, report)}: {_verdict(chapter)}." for chapter in decided]
    else:
        sentences += [
            _tally(kind, [chapter for chapter in decided if chapter.conditions.kind is kind]) for kind in Kind
        ]
    if len(decided) < len(report.problems):
        sentences.append(f"{len(report.problems) - len(decided)} of {len(report.problems)} have no final.")
    return [line for line in sentences if line]


def _verdict(chapter: ProblemReport) -> str:
    """What was decided, in words; "": nothing was."""
    return verdict(chapter.winner, ties=len(chapter.ties)) if chapter.winner else ""


def _tally(kind: Kind, decided: Sequence[ProblemReport]) -> str:
    """How many problems of a kind have a config that beats the default, by how much; "": it has none."""
    winners = [chapter.winner for chapter in decided if chapter.winner]
    if not winners:
        return ""
    faster = [winner for winner in winners if not winner.kept_default]
    kept = len(winners) - len(faster)
    have = "has" if len(faster) == 1 else "have"
    are = "is estimated to be" if kind is Kind.ESTIMATE else "is"
    text = f"{len(faster)} of {len(winners)} problems {have} a config that {are} faster than the default"
    if faster:
        gains = [winner.gain for winner in faster]
        least, most = percent(min(gains)), percent(max(gains))
        text += f", by {least}" + (f" to {most}" if most != least else "")
    tied = sum(bool(chapter.ties) for chapter in decided)
    if tied:
        text += f"; at {tied} of them several configs tie"
    return f"{text} ({kind})" + (f"; at {kept} the default is kept." if kept else ".")


def _name(chapter: ProblemReport, report: Report) -> str:
    """A chapter's name, with as much besides the shape as tells it from the others."""
    parts = [chapter.problem.shape]
    if chapter.problem.routing.key != "uniform":
        parts[0] += f", {chapter.problem.routing.key}"
    if len(report.stacks) > 1:
        parts.append(f"on {chapter.conditions.environment.device}")
    alike = [
        other
        for other in report.problems
        if (other.problem, other.conditions.environment) == (chapter.problem, chapter.conditions.environment)
    ]
    for text in (lambda c: c.backend, lambda c: str(c.kind), lambda c: c.workload):
        if len({text(other.conditions) for other in alike}) > 1:
            parts.append(f"({text(chapter.conditions)})")
    return " ".join(parts)


def _summary(report: Report) -> Markup:
    parts = [tag("h2", "Summary", id="summary")]
    if len(report.stacks) > 1:
        text = f"These times are from {len(report.stacks)} different stacks: compare within a table only."
        parts.append(tag("p", text, class_="note"))
    for stack, problems in by_stack(report):
        kinds = dict.fromkeys(chapter.conditions.kind for chapter in problems)
        for kind in kinds:
            parts.append(_summary_table(report, stack, [p for p in problems if p.conditions.kind is kind]))
    limits = {chapter.limit.source for chapter in report.problems if chapter.limit}
    if limits:
        text = (
            "The byte limit is the time in which the weights of the experts that a step is expected to visit"
            f" can be read at {'; '.join(sorted(limits))}. That bandwidth was not measured here."
        )
        if any(chapter.limit and not chapter.limit.uniform for chapter in report.problems):
            text += " It counts the experts of uniform routing; skewed or correlated routing visits fewer."
        parts.append(tag("p", text, class_="note"))
    elif report.problems:
        parts.append(
            tag("p", "The bandwidth of this device is not known, so there is no byte limit.", class_="note")
        )
    return tag("section", *parts, aria_labelledby="summary")


def _summary_table(report: Report, stack: Fingerprint, problems: Sequence[ProblemReport]) -> Markup:
    """The problems of one kind on one stack."""
    kind, words = problems[0].conditions.kind, problems[0].words
    heads = [
        "shape",
        "gain",
        "default",
        words.chosen,
        "published",
        "of the byte limit",
        "changed",
    ]
    bases = dict.fromkeys(chapter.basis for chapter in problems if chapter.basis)
    how = f", {' or '.join(bases)}," if bases else ""
    caption = join(
        badge(kind),
        f" Time of the {words.whole} in µs{how} on {stack.device} with {_built(stack)}",
        "; below it the 95% CI" if words.round else None,
    )
    rows = [_summary_row(chapter, _name(chapter, report)) for chapter in problems]
    return table(heads, rows, caption=caption, right=(1, 2, 3, 4, 5), config=6)


def _built(stack: Fingerprint) -> str:
    """What a stack runs on, or where nothing ran what compiled for it."""
    return f"Triton {stack.triton}" if stack.runtime == "none" and stack.triton else stack.runtime


def _summary_row(chapter: ProblemReport, name: str) -> list[str | Markup]:
    default, winner = chapter.contender("default"), chapter.contender("winner")
    chosen = winner or default
    gain = join("no final" if chapter.winner is None else "kept default")
    if winner is not None and winner.gain is not None:
        text, _, interval = gain_text(winner.gain.value, winner.gain.low, winner.gain.high).partition(" ")
        gain = join(text, _sub(interval.strip("()")) if interval else None)
    ties = tie_text(len(chapter.ties) + 1) if chapter.ties else ""
    reached: list[str] = []
    if chapter.limit is not None:
        for contender in [default] if chosen is default else [default, chosen]:
            if contender is not None and "layer" in contender.us:
                reached.append(f"{chapter.limit.fraction('layer', contender.us['layer'].value):.0%}")
    return [
        join(name, _sub(chapter.problem.tokens_text)),
        join(gain, _sub(ties) if ties else None),
        _time(chapter, default),
        _time(chapter, winner) if winner else join("= default") if chapter.winner else "",
        _time(chapter, chapter.contender("published")),
        " → ".join(reached),
        layer_code(winner.config, chapter.ships) if winner and chapter.ships else "",
    ]


def _sub(text: str) -> Markup:
    return tag("span", text, class_="sub")


def _time(chapter: ProblemReport, contender: Contender | None) -> Markup:
    """A time with its interval, or an estimate as executed with what it was as compiled."""
    if contender is None or "layer" not in contender.us:
        return join("–")
    us = contender.us["layer"]
    text = f"{us.low:.2f} to {us.high:.2f}" if us.low < us.high else ""
    if chapter.basis == AS_EXECUTED and "layer" in (compiled := chapter.compiled_us(contender.config)):
        text = f"{AS_COMPILED} {compiled['layer']:.2f}"
    return join(f"{us.value:.2f}", _sub(text) if text else None)


def _problem(store: Store, chapter: ProblemReport, anchor: str, name: str, folded: bool) -> Markup:
    title = tag(
        "h2",
        f"{name}: {chapter.problem.tokens_text}, {chapter.problem.routing.key} routing ",
        badge(chapter.conditions.kind),
        id=f"{anchor}-title",
    )
    decision = _verdict(chapter)
    texts = [ties_text(chapter.conditions.kind, len(chapter.ties))]
    if decision and not folded:
        texts.insert(0, f"{decision[0].upper()}{decision[1:]}.")
    facts = (
        f"Layer {chapter.problem.layer.key}, backend {chapter.conditions.backend}, on"
        f" {chapter.conditions.environment.device}. Conditions: {chapter.conditions.workload}."
    )
    stages = [part for stage in Stage for part in stage_section(chapter, stage, f"{anchor}-{stage}")]
    content = join(
        # Within the fold: a link to it opens it.
        tag("div", id=anchor),
        [tag("p", text, class_="lede") for text in texts if text],
        tag("p", facts, class_="note"),
        final(chapter),
        join(tag("h3", "Questions"), doubts(answers(store, chapter))),
        stages,
    )
    if folded:
        heading = join(title, tag("span", decision or "no final", class_="note"))
        content = details(heading, content, class_="chapter")
    else:
        content = join(title, content)
    return tag("section", content, aria_labelledby=f"{anchor}-title")


def _stacks(report: Report) -> Markup:
    stacks = report.stacks
    rows = [
        [
            name.replace("_", " "),
            *(str(asdict(stack)[name]) if asdict(stack)[name] is not None else "–" for stack in stacks),
        ]
        for name in (asdict(stacks[0]) if stacks else ())
    ]
    heads = ["field", *(f"stack {index + 1}" if len(stacks) > 1 else "value" for index in range(len(stacks)))]
    caption = "Everything that may change a result; – is not applicable or not reported by the machine"
    return join(tag("h2", "Stack", id="stack"), table(heads, rows, caption=caption))


def _runs(report: Report) -> Markup:
    rows = [
        [
            str(run.id),
            f"{run.started_at:%Y-%m-%d %H:%M}",
            "" if run.ended_at is None else duration((run.ended_at - run.started_at).total_seconds()),
            run.shown_state,
            str(run.seed),
            tag("code", run.command),
        ]
        for run in report.runs
    ]
    heads = ["run", "started, UTC", "took", "state", "seed", "command"]
    return join(
        tag("h2", "Runs", id="runs"), table(heads, rows, caption="Commands that made these times", config=5)
    )


def _words(report: Report) -> Markup:
    kinds = [kind for kind in Kind if any(chapter.conditions.kind is kind for chapter in report.problems)]
    bases = {chapter.basis for chapter in report.problems} | {
        chapter.conditions.basis for chapter in report.problems
    }
    lines: list[tuple[str | Markup, str]] = [(badge(kind), wording(kind).definition) for kind in kinds]
    lines += [(basis, text) for basis, text in ESTIMATES.items() if basis in bases]
    lines += [("gain", "; ".join(wording(kind).gain for kind in kinds))]
    if Kind.MEASURED in kinds:
        lines.append(("layer", "both stages and what an engine runs around them; more than the stages' sum"))
    if set(kinds) != {Kind.MEASURED}:
        lines.append(("stages' sum", "what an engine runs around the two stages is not in it"))
    lines.append(
        (
            "default, published",
            "what is launched untuned, and a config that others published; every search tries both",
        )
    )
    rows = [join(tag("dt", word), tag("dd", text)) for word, text in lines]
    return join(tag("h2", "Words", id="words"), tag("dl", rows))


def _footer() -> Markup:
    return tag("footer", tag("p", f"Made by autotune {__version__}. One file, no network, no script."))
