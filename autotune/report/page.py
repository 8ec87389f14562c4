"""The report as one HTML file: no network, no script, readable from a disk, on paper and on a phone."""

from collections.abc import Sequence
from dataclasses import asdict

from autotune import __version__
from autotune.problem import Stage
from autotune.report.configs import layer_changes
from autotune.report.content import ProblemReport, Report, by_stack
from autotune.report.embed import stylesheet
from autotune.report.finals import Contender
from autotune.report.markup import Markup, join, table, tag
from autotune.report.sceptic import answers, gain_text
from autotune.report.sections import doubts, final, stage_section
from autotune.report.text_table import duration
from autotune.report.winners import verdict
from autotune.results import Kind
from autotune.store.records import WinnerRecord
from autotune.store.store import Store

_KINDS = {
    Kind.MEASURED: "timed on the named device: graph replay, cold weights, after the numeric gate",
    Kind.ESTIMATE: "a formula on the compiled code; nothing ran on that device",
    Kind.REPLAYED: "taken from a recorded table",
}


def page(store: Store, report: Report) -> str:
    """The whole page; equal databases give equal pages."""
    anchors = {id(one): f"p{index}" for index, one in enumerate(report.problems)}
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#summary", class_="skip"),
        _header(report, anchors),
        tag(
            "main",
            _summary(report),
            [_problem(store, one, anchors[id(one)]) for one in report.problems],
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
    links += [(f"#{anchors[id(one)]}", _name(one, report)) for one in report.problems]
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
    layers = sorted({one.problem.layer.key for one in report.problems})
    devices = sorted({stack.device for stack in report.stacks})
    said = [f"{', '.join(layers)} on {', '.join(devices)}: {report.candidates:,} candidates."]
    decided = [one for one in report.problems if one.winner]
    if len(decided) <= 2:
        said += [f"{one.problem.shape}: {verdict(one.winner)}." for one in decided if one.winner]
    else:
        said.append(_tally([one.winner for one in decided if one.winner]))
    if len(decided) < len(report.problems):
        said.append(f"{len(report.problems) - len(decided)} of {len(report.problems)} have no final.")
    return said


def _tally(winners: Sequence[WinnerRecord]) -> str:
    """How many winners beat what ships, and by how much."""
    faster = [winner for winner in winners if not winner.kept_default]
    kinds = " and ".join(sorted({str(winner.kind) for winner in winners}))
    kept = len(winners) - len(faster)
    said = f"{len(faster)} of {len(winners)} problems have a config that is faster than what ships"
    if faster:
        gains = [winner.gain for winner in faster]
        least, most = f"{min(gains):.1%}", f"{max(gains):.1%}"
        said += f", by {least}" + (f" to {most}" if most != least else "")
    return f"{said} ({kinds})" + (f"; at {kept} what ships is kept." if kept else ".")


def _name(one: ProblemReport, report: Report) -> str:
    routing = "" if one.problem.routing.key == "uniform" else f", {one.problem.routing.key}"
    stack = f" on {one.conditions.environment.device}" if len(report.stacks) > 1 else ""
    return f"{one.problem.shape}{routing}{stack}"


def _summary(report: Report) -> Markup:
    made = [tag("h2", "Summary", id="summary")]
    if len(report.stacks) > 1:
        text = f"These figures are from {len(report.stacks)} unlike stacks: compare within a table only."
        made.append(tag("p", text, class_="note"))
    for stack, problems in by_stack(report):
        rows = [_summary_row(one) for one in problems]
        heads = [
            "shape",
            "kind",
            "gain of the layer",
            "default",
            "winner",
            "published",
            "of the byte limit",
            "changed",
        ]
        caption = f"Time of the layer in µs, on {stack.device} with {stack.runtime}"
        made.append(table(heads, rows, caption=caption, right=(2, 3, 4, 5, 6)))
    limits = {one.limit.source for one in report.problems if one.limit}
    if limits:
        text = (
            "The byte limit is the time in which the weights of the experts that a step is expected to visit"
            f" can be read at {'; '.join(sorted(limits))}. That bandwidth was not measured here."
        )
        if any(one.limit and not one.limit.uniform for one in report.problems):
            text += " It counts the experts of uniform routing; skewed or correlated routing visits fewer."
        made.append(tag("p", text, class_="note"))
    elif report.problems:
        made.append(
            tag("p", "The bandwidth of this device is not known, so there is no byte limit.", class_="note")
        )
    return tag("section", *made, aria_labelledby="summary")


def _summary_row(one: ProblemReport) -> list[str | Markup]:
    default, winner = one.contender("default"), one.contender("winner")
    chosen = winner or default
    gain = join("no final" if one.winner is None else "kept default")
    if winner is not None and winner.gain is not None:
        text, _, interval = gain_text(winner.gain.value, winner.gain.low, winner.gain.high).partition(" ")
        gain = join(text, tag("span", f"95 %: {interval.strip('()')}", class_="sub") if interval else None)
    reached: list[str] = []
    if one.limit is not None:
        for contender in [default] if chosen is default else [default, chosen]:
            if contender is not None and "layer" in contender.us:
                reached.append(f"{one.limit.fraction('layer', contender.us['layer'].value):.0%}")
    kind = str(one.conditions.kind)
    return [
        join(one.problem.shape, tag("span", one.tokens_text, class_="sub")),
        tag("span", kind, class_=f"kind {kind}"),
        gain,
        _time(default),
        _time(winner) if winner else join("= default") if one.winner else "",
        _time(one.contender("published")),
        " → ".join(reached),
        tag("code", layer_changes(winner.config, one.ships)) if winner and one.ships else "",
    ]


def _time(contender: Contender | None) -> Markup:
    if contender is None or "layer" not in contender.us:
        return join("–")
    us = contender.us["layer"]
    interval = tag("span", f"{us.low:.2f} to {us.high:.2f}", class_="sub") if us.low < us.high else None
    return join(f"{us.value:.2f}", interval)


def _problem(store: Store, one: ProblemReport, anchor: str) -> Markup:
    kind = str(one.conditions.kind)
    title = tag(
        "h2",
        f"{one.problem.shape}: {one.tokens_text}, {one.problem.routing.key} routing ",
        tag("span", kind, class_=f"kind {kind}"),
        id=anchor,
    )
    said = [f"{verdict(one.winner)[0].upper()}{verdict(one.winner)[1:]}."] if one.winner else []
    facts = (
        f"Layer {one.problem.layer.key}, backend {one.conditions.backend}, on"
        f" {one.conditions.environment.device}. Conditions: {one.conditions.workload}."
    )
    stages = [part for stage in Stage for part in stage_section(one, stage, f"{anchor}-{stage}")]
    asked = [tag("h3", "What a sceptic asks"), doubts(answers(store, one))]
    texts = [tag("p", text, class_="lede") for text in said]
    return tag(
        "section",
        title,
        *texts,
        tag("p", facts, class_="note"),
        final(one),
        asked,
        stages,
        aria_labelledby=anchor,
    )


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
    caption = "Everything that may change a result; – is not applicable or not told by the machine"
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
    return join(tag("h2", "Runs", id="runs"), table(heads, rows, caption="Commands that made these figures"))


def _words(report: Report) -> Markup:
    kinds = {one.conditions.kind for one in report.problems}
    lines = [
        join(tag("dt", tag("span", str(kind), class_=f"kind {kind}")), tag("dd", text))
        for kind, text in _KINDS.items()
        if kind in kinds
    ]
    lines.append(
        join(
            tag("dt", "gain"),
            tag(
                "dd",
                "(default − winner) / default of the layer's time: the median of the ratios of paired rounds",
            ),
        )
    )
    lines.append(
        join(
            tag("dt", "layer"),
            tag("dd", "both stages and what an engine runs around them; more than the stages' sum"),
        )
    )
    lines.append(
        join(
            tag("dt", "default, published"),
            tag(
                "dd",
                "what ships, and a config that others published; both take part in every search and final",
            ),
        )
    )
    return join(tag("h2", "Words", id="words"), tag("dl", lines))


def _footer() -> Markup:
    return tag("footer", tag("p", f"Made by autotune {__version__}. One file, no network, no script."))
