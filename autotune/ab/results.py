"""Result files of SGLang's `bench_serving` and vLLM's `bench serve`, as repeats of one arm.

Fields as in SGLang 0.5.23 (`benchmark/serving.py`: one JSON line a run, appended) and vLLM 0.33.0
(`benchmarks/serve.py`: a JSON file a run with --save-result, lines with --append-result).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from autotune.errors import UserError


class Tool(StrEnum):
    """Who wrote a result."""

    SGLANG = "sglang bench_serving"
    VLLM = "vllm bench serve"


@dataclass(frozen=True)
class Metric:
    """A figure that is compared.

    Attributes:
        name: for people, with its unit.
        field: in both tools' files.
        higher_is_better: a rate rather than a time.
    """

    name: str
    field: str
    higher_is_better: bool = False


METRICS: Final = (
    Metric("TPOT median, ms", "median_tpot_ms"),
    Metric("TPOT mean, ms", "mean_tpot_ms"),
    Metric("ITL median, ms", "median_itl_ms"),
    Metric("ITL p99, ms", "p99_itl_ms"),
    Metric("TTFT median, ms", "median_ttft_ms"),
    Metric("TTFT p99, ms", "p99_ttft_ms"),
    Metric("output, tokens/s", "output_throughput", higher_is_better=True),
    Metric("requests/s", "request_throughput", higher_is_better=True),
)

_SETTINGS: Final = {
    Tool.SGLANG: (
        *("backend", "dataset_name", "request_rate", "max_concurrency", "sharegpt_output_len"),
        *("random_input_len", "random_output_len", "random_range_ratio"),
    ),
    Tool.VLLM: (
        *("backend", "model_id", "num_prompts", "request_rate", "burstiness", "max_concurrency"),
        *("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps"),
    ),
}
# Of the server's own arguments, which SGLang's file has: what both arms must share.
_SERVER: Final = (
    *("model_path", "tp_size", "dp_size", "ep_size", "quantization", "kv_cache_dtype"),
    *("speculative_algorithm", "speculative_draft_model_path", "speculative_num_steps"),
    *("speculative_eagle_topk", "speculative_num_draft_tokens"),
)


@dataclass(frozen=True)
class Repeat:
    """One run of the benchmark.

    Attributes:
        where: file and line.
        workload: what was asked of the server, by name: equal in both arms, or they cannot be compared.
        input_tokens, output_tokens: in all.
        values: figures by `Metric.field`.
        accept_length: tokens a verify step, where the server speculates and says so.
    """

    where: str
    tool: Tool
    workload: Mapping[str, Any]
    input_tokens: int
    output_tokens: int
    values: Mapping[str, float]
    accept_length: float | None


def read_arm(paths: Iterable[Path]) -> list[Repeat]:
    """The repeats in files and folders, in order.

    Raises:
        UserError: none is there, a file is no result, or requests failed in a run.
    """
    repeats: list[Repeat] = []
    for path in paths:
        files = sorted([*path.glob("*.json"), *path.glob("*.jsonl")]) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} has no .json or .jsonl file: give the benchmark's result files")
        for file in files:
            repeats += _read(file)
    return repeats


def _read(file: Path) -> list[Repeat]:
    try:
        text = file.read_text(encoding="utf-8")
        lines = [text] if _is_one(text) else text.splitlines()
        raw = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is no result file ({error}): give those of bench_serving or vllm bench serve"
        ) from error
    return [_repeat(f"{file}:{number}" if len(raw) > 1 else str(file), one) for number, one in raw]


def _is_one(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _repeat(where: str, raw: Any) -> Repeat:
    if not isinstance(raw, dict) or "median_tpot_ms" not in raw:
        raise UserError(
            f"{where} has no median_tpot_ms: give result files of bench_serving or vllm bench serve"
        )
    tool = Tool.VLLM if "model_id" in raw else Tool.SGLANG
    failed = raw.get("failed") or sum(1 for error in raw.get("errors", ()) if error)
    if failed:
        raise UserError(f"{where}: {failed} requests failed, so it measures another load: run it again")
    workload = {name: raw.get(name) for name in _SETTINGS[tool]}
    workload["completed"] = raw.get("completed")
    server = raw.get("server_info") or {}
    workload |= {f"server {name}": server[name] for name in _SERVER if name in server}
    values = {m.field: float(raw[m.field]) for m in METRICS if isinstance(raw.get(m.field), int | float)}
    accepted = raw.get("accept_length")
    return Repeat(
        where=where,
        tool=tool,
        workload=workload,
        input_tokens=int(raw.get("total_input_tokens") or 0),
        output_tokens=int(raw.get("total_output_tokens") or 0),
        values=values,
        accept_length=float(accepted) if accepted is not None else None,
    )
