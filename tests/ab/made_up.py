"""Made-up results in the forms of both tools and of lm-evaluation-harness."""

import json
from pathlib import Path
from typing import Any

from autotune.ab.results import ACCEPTED, METRICS, PER_ACCEPTED

BASE, TUNED = (1.0, 1.01, 0.99, 1.001, 1.005), (0.97, 0.975, 0.965, 0.971, 0.972)


def times(scale: float) -> dict[str, float]:
    own = [metric for metric in METRICS if metric not in (ACCEPTED, PER_ACCEPTED)]
    made = {m.field: 900.0 / scale if m.higher_is_better else 30.0 * scale for m in own}
    return {**made, "mean_itl_ms": 117.9 * scale}


def sglang(scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {
        "tag": None,
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": float("inf"),
        "max_concurrency": 40,
        "sharegpt_output_len": None,
        "random_input_len": 10240,
        "random_output_len": 512,
        "random_range_ratio": 1.0,
        "server_info": {"tp_size": 8, "speculative_num_draft_tokens": 4, "port": 30000},
        "completed": 160,
        "total_input_tokens": 1638400,
        "total_output_tokens": 81920,
        "accept_length": 3.93,
        **times(scale),
        **changes,
    }


def vllm(scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    return {
        "date": "20260101-000000",
        "backend": "vllm",
        "label": None,
        "model_id": "kimi",
        "tokenizer_id": "kimi",
        "num_prompts": 160,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 40,
        "completed": 160,
        "failed": 0,
        "total_input_tokens": 1638400,
        "total_output_tokens": 81920,
        "spec_decode_acceptance_rate": 97.7,
        "spec_decode_acceptance_length": 3.93,
        "spec_decode_num_drafts": 20845,
        "spec_decode_draft_tokens": 62535,
        "spec_decode_accepted_tokens": 61076,
        **times(scale),
        **changes,
    }


def lines(path: Path, results: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in results))
    return path


def folder(path: Path, files: dict[str, Any]) -> Path:
    """A folder of JSON files by name."""
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def evals(scores: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A results file of lm-evaluation-harness: by task its scores, or `metric: (score, error)`."""
    results: dict[str, dict[str, Any]] = {}
    for task, of_task in scores.items():
        results[task] = {"alias": task, "name": task, "sample_len": 1319}
        for name, value in of_task.items():
            stem, _, kind = name.partition(",")
            score, error = value if isinstance(value, tuple) else (value, "N/A")
            results[task] |= {name: score, f"{stem}_stderr,{kind}": error}
    return {
        "results": results,
        "n-shot": dict.fromkeys(scores, 5),
        "versions": dict.fromkeys(scores, 3),
        "date": 1.0,
        "model_name": "kimi",
        **changes,
    }
