"""One run of SGLang's `bench_serving` or vLLM's `bench serve`, from the JSON object that it writes.

Fields as in SGLang 0.5.23 (`benchmark/serving.py`) and vLLM 0.33.0 (`benchmarks/serve.py`, and
`benchmarks/sweep/serve.py`, which adds the parameters of its combination to each run's object).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import log
from statistics import fmean
from typing import Any, Final

from autotune.errors import UserError
from autotune.quantities import LARGEST, SMALLEST, is_number, shown, whole
from autotune.text import counted


class Tool(StrEnum):
    """Who wrote a result."""

    SGLANG = "sglang bench_serving"
    VLLM = "vllm bench serve"


@dataclass(frozen=True)
class Metric:
    """What is compared.

    Attributes:
        name: for people, with its unit.
        field: in both tools' files, or ours.
        higher_is_better: a rate rather than a time.
    """

    name: str
    field: str
    higher_is_better: bool = False


ACCEPTED: Final = Metric("accepted tokens/step", "accept_length", higher_is_better=True)
PER_ACCEPTED: Final = Metric("ms/accepted token", "ms_per_accepted_token")
METRICS: Final = (
    Metric("TPOT median, ms", "median_tpot_ms"),
    Metric("TPOT mean, ms", "mean_tpot_ms"),
    PER_ACCEPTED,
    Metric("ITL median, ms", "median_itl_ms"),
    Metric("ITL p99, ms", "p99_itl_ms"),
    Metric("TTFT median, ms", "median_ttft_ms"),
    Metric("TTFT p99, ms", "p99_ttft_ms"),
    Metric("output, tokens/s", "output_throughput", higher_is_better=True),
    Metric("requests/s", "request_throughput", higher_is_better=True),
    ACCEPTED,
)

_STEP: Final = "mean_itl_ms"

_SETTINGS: Final = {
    Tool.SGLANG: (
        *("backend", "dataset_name", "request_rate", "max_concurrency", "sharegpt_output_len"),
        *("random_input_len", "random_output_len", "random_range_ratio"),
    ),
    Tool.VLLM: (
        *(
            "backend",
            "endpoint_type",
            "model_id",
            "num_prompts",
            "request_rate",
            "burstiness",
            "max_concurrency",
        ),
        *("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps"),
    ),
}
# Of the server's own arguments, which SGLang's file has: what both arms must share, and what is but said.
_SERVER: Final = (
    *("model_path", "dtype", "tp_size", "dp_size", "pp_size", "ep_size", "moe_dp_size", "attn_cp_size"),
    *("quantization", "kv_cache_dtype"),
    *("enable_dp_attention", "disable_radix_cache", "disable_cuda_graph"),
    *("speculative_algorithm", "speculative_draft_model_path", "speculative_num_steps"),
    *("speculative_eagle_topk", "speculative_num_draft_tokens"),
)
_SERVER_TOLD: Final = (
    *("version", "attention_backend", "moe_runner_backend", "moe_a2a_backend", "chunked_prefill_size"),
    *("max_running_requests", "mem_fraction_static", "cuda_graph_max_bs", "page_size"),
)
_ROLES: Final = ("encode", "prefill", "decode")
"""Lists of servers, where prefill is apart."""
_NO_DECODING: Final = ("encode", "prefill")
_DEPTH: Final = 6
"""Levels below which no server's arguments are looked for."""

# vLLM's own keys; others are the user's metadata or the parameters of a sweep.
_VLLM: Final = re.compile(
    r"date|endpoint_type|backend|label|model_id|tokenizer_id|num_prompts|request_rate|burstiness|max_concurrency"
    r"|ramp_up_\w+|duration|completed|failed|total_\w+|\w+_throughput|request_goodput:?|max_output_tokens_per_s"
    r"|max_concurrent_requests|rtfx|run_number|rps_change_events|(mean|median|std|p[\d.]+)_\w+_ms"
    r"|(spec_decode|diffusion|probe)_\w+|\w+_lens|ttfts|itls|latencies|\w+_times|generated_texts|errors"
)
# Of these, in any spelling, what both arms must share.
_SWEPT: Final = re.compile(
    r"(tensor|pipeline|data|expert)_parallel_size|[tdpe]p(_size)?|enable_expert_parallel|model(_path)?|dtype"
    r"|quantization|kv_cache_dtype|dataset\w*|(random|sharegpt|custom|hf|sonnet)_\w+|(input|output)_len|seed"
    r"|max_num_(seqs|batched_tokens)|max_model_len|enforce_eager|speculative\w*|num_speculative_tokens|temperature"
)


@dataclass(frozen=True)
class Repeat:
    """One run of the benchmark.

    Attributes:
        where: file and line.
        workload: what was asked of the server, by name: equal in both arms, or they cannot be compared.
        told: what may differ, but is then said.
        input_tokens, output_tokens: in all.
        values: by `Metric.field`; milliseconds, tokens or requests a second, tokens a step.
        bad: what stands in the file for a field that is no number above zero, or no tokens a step.
    """

    where: str
    tool: Tool
    workload: Mapping[str, Any]
    input_tokens: int
    output_tokens: int
    values: Mapping[str, float]
    told: Mapping[str, Any] = field(default_factory=dict)
    bad: Mapping[str, str] = field(default_factory=dict)

    @property
    def speculates(self) -> bool:
        """Whether an argument of the server says so."""
        return any("speculative_" in name and text != "null" for name, text in self.workload.items())


def read_repeat(raw: Any, where: str) -> Repeat:
    """A run from its object.

    Raises:
        UserError: it is no result, requests failed in the run, or a count in it is none.
    """
    own = ("request_throughput", "median_tpot_ms")
    # genai-perf has an object of that name.
    if not isinstance(raw, dict) or all(isinstance(raw.get(name, {}), dict) for name in own):
        raise UserError(
            f"{where} has neither request_throughput nor median_tpot_ms as a number: give result files of"
            " bench_serving or vllm bench serve"
        )
    tool = Tool.VLLM if "model_id" in raw else Tool.SGLANG
    errors = raw.get("errors")
    failed = whole(raw.get("failed") or 0, f"{where}: failed") or sum(
        bool(error) for error in (errors if isinstance(errors, list) else ())
    )
    if failed:
        raise UserError(
            f"{where}: {counted(failed, 'request')} failed, so it measured another load: run it again"
        )
    completed = raw.get("completed")
    if completed is not None and not whole(completed, f"{where}: completed"):
        raise UserError(f"{where}: no request was completed: run it again")
    prompts = raw.get("num_prompts")
    if "failed" not in raw and is_number(completed) and is_number(prompts) and completed < prompts:
        raise UserError(f"{where}: {completed} of {prompts} requests were completed: run it again")
    server = raw.get("server_info")
    values, bad = _values(raw, server)
    workload = {name: raw.get(name) for name in _SETTINGS[tool]}
    workload |= {"completed": completed, "speculative decoding": ACCEPTED.field in {*values, *bad}}
    workload |= dict(_arguments(server, _SERVER))
    reported = dict(_arguments(server, _SERVER_TOLD))
    if tool is Tool.VLLM:
        extra = {_plain(name): value for name, value in raw.items() if not _VLLM.fullmatch(name)}
        workload |= {name: value for name, value in extra.items() if _SWEPT.fullmatch(name)}
        reported |= {
            name: value
            for name, value in extra.items()
            if name not in workload and not isinstance(value, list | dict)
        }
    return Repeat(
        where=where,
        tool=tool,
        workload={name: _canonical(value) for name, value in workload.items()},
        input_tokens=whole(raw.get("total_input_tokens") or 0, f"{where}: total_input_tokens"),
        output_tokens=whole(raw.get("total_output_tokens") or 0, f"{where}: total_output_tokens"),
        values=values,
        told={name: _canonical(value) for name, value in reported.items()},
        bad=bad,
    )


def _values(raw: Mapping[str, Any], server: Any) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers above zero, and what the others are."""
    fields = [metric.field for metric in METRICS if metric is not PER_ACCEPTED]
    given = {name: raw[name] for name in (*fields, _STEP) if raw.get(name) is not None}
    # Neither tool has 0 tokens a step but where nothing was drafted.
    if accepted := _accepted(raw, server):
        given[ACCEPTED.field] = accepted
    else:
        given.pop(ACCEPTED.field, None)
    values = {
        name: float(value)
        for name, value in given.items()
        if is_number(value) and (1 if name == ACCEPTED.field else SMALLEST) <= value <= LARGEST
    }
    return values, {name: shown(value) for name, value in given.items() if name not in values}


def per_accepted(repeats: Sequence[Repeat]) -> tuple[list[float], str]:
    """Milliseconds an accepted token in each repeat, the bonus token counted, and the formula, one for all.

    A verify step's time over the tokens that it yields. In vLLM's file an ITL is the time between two steps.
    SGLang's client spreads it over the step's tokens, as earlier ones did not: the file tells which it is by
    whether the mean ITL is nearer to TPOT or to as many times TPOT as tokens are accepted.

    Returns:
        Nothing and "" where a repeat lacks what it takes.
    """
    if any(name not in repeat.values for repeat in repeats for name in (_STEP, ACCEPTED.field)):
        return [], ""
    steps = [repeat.values[_STEP] for repeat in repeats]
    accepted = [repeat.values[ACCEPTED.field] for repeat in repeats]
    tpot = [repeat.values.get("mean_tpot_ms") for repeat in repeats]
    if (
        repeats[0].tool is Tool.SGLANG
        and sum(
            log(step / latency) - log(tokens) / 2
            for step, latency, tokens in zip(steps, tpot, accepted, strict=True)
            if latency
        )
        <= 0
    ):
        return steps, "mean ITL, for bench_serving spreads a verify step over its tokens"
    times = [step / tokens for step, tokens in zip(steps, accepted, strict=True)]
    return times, "mean ITL / accepted tokens per step, for an ITL is a verify step"


def _accepted(raw: Mapping[str, Any], server: Any) -> Any:
    """Tokens a verify step, the bonus token included, where the server speculates and says so.

    SGLang's client writes that of the first server's first rank; the mean over all that decode counts.
    """
    lengths = list(_lengths(server))
    if len(lengths) > 1:
        return next((length for length in lengths if not is_number(length)), None) or fmean(lengths)
    if length := raw.get(ACCEPTED.field) or raw.get("spec_decode_acceptance_length"):
        return length
    drafts, accepted = raw.get("spec_decode_num_drafts"), raw.get("spec_decode_accepted_tokens")
    if is_number(drafts) and is_number(accepted) and drafts > 0 <= accepted:
        return 1 + accepted / drafts
    return lengths[0] if lengths else None


def _lengths(info: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """The accepted tokens per step of every rank of the servers that decode."""
    if isinstance(info, dict):
        states = info.get("internal_states")
        own = [state.get("avg_spec_accept_length") for state in _dicts(states)]
        if any(own):
            yield from filter(None, own)
            return
        info = [value for name, value in info.items() if name not in _NO_DECODING]
    if isinstance(info, list) and depth:
        for value in info:
            yield from _lengths(value, depth - 1)


def _arguments(
    info: Any, names: tuple[str, ...], label: str = "server", depth: int = _DEPTH
) -> Iterator[tuple[str, Any]]:
    """The arguments of every server, by name; of those of one role in an order that is none of theirs.

    Args:
        info: a server's arguments, or lists or objects of them, by role, by address or below another name.
    """
    if not depth:
        return
    if isinstance(info, dict) and any(":" in name for name in info):  # by address
        info = list(info.values())
    if label in _ROLES:
        info = info if isinstance(info, list) else [info]
        yield f"{label} servers", len(info)
    if isinstance(info, list):
        own = [list(_arguments(server, names, "", depth - 1)) for server in _dicts(info)]
        for number, arguments in enumerate(sorted(own, key=_canonical)):
            yield from ((f"{label}[{number}]{name}", value) for name, value in arguments)
    elif isinstance(info, dict):
        yield from ((f"{label} {name}", info[name]) for name in names if name in info)
        for name, below in info.items():
            if name not in (*names, "internal_states"):
                yield from _arguments(
                    below, names, name if label == "server" else f"{label} {name}", depth - 1
                )


def _dicts(raw: Any) -> list[dict[str, Any]]:
    return [value for value in raw if isinstance(value, dict)] if isinstance(raw, list) else []


def _plain(name: str) -> str:
    """A parameter as an option names it or as a key does: `--max-num-seqs` is `max_num_seqs`."""
    return name.lstrip("-").replace("-", "_")


def _canonical(value: Any) -> str:
    """JSON text: NaN is itself there, and 16 is 16.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)
