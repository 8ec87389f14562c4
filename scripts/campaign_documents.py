"""Right documents of each kind that a user hands over, and what may stand in one, or in its place."""

import json
from typing import Any

from autotune.problem.layer import Layer
from autotune.problem.models import preset
from autotune.protocol.bundle import VERSION

LAYER = Layer.of(preset("kimi-k2.5-w4a8"), 8)

MODEL = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "text_config": {
        "hidden_size": 2048,
        "moe_intermediate_size": [768, 768],
        "num_experts": 128,
        "moe_topk": 8,
    },
    "quantization_config": {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
    },
}
SGLANG = {
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": 4.0,
    "max_concurrency": 40,
    "completed": 100,
    "median_tpot_ms": 11.2,
    "mean_tpot_ms": 11.3,
    "p99_tpot_ms": 14.0,
    "median_ttft_ms": 120.0,
    "output_throughput": 3300.0,
    "total_input_tokens": 51200,
    "total_output_tokens": 25600,
    "accept_length": 2.9,
    "errors": ["", ""],
    "server_info": {"tp_size": 8, "decode": [{"tp_size": 8}], "model_path": "m"},
}
VLLM = {
    "model_id": "m",
    "backend": "vllm",
    "request_rate": "inf",
    "num_prompts": 100,
    "completed": 100,
    "failed": 0,
    "median_tpot_ms": 11.2,
    "mean_tpot_ms": 11.3,
    "median_ttft_ms": 120.0,
    "output_throughput": 3300.0,
    "total_input_tokens": 51200,
    "total_output_tokens": 25600,
    "spec_decode_acceptance_length": 2.9,
}
EVAL = {
    "results": {
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.9, "exact_match_stderr,strict-match": 0.01},
        "wikitext": {"word_perplexity,none": 3.3, "word_perplexity_stderr,none": 0.1},
    },
    "higher_is_better": {"gsm8k": {"exact_match": True}, "wikitext": {"word_perplexity": False}},
    "config": {"model": "hf", "limit": None},
    "versions": {"gsm8k": 3},
    "n-shot": {"gsm8k": 5},
    "date": 1.7e9,
    "n-samples": {"gsm8k": {"original": 1319, "effective": 1319}},
}
T4 = {
    "schema_version": "1.0.0",
    "metadata": {"timeunit": "milliseconds"},
    "results": [
        {
            "timestamp": "2026-11-26",
            "configuration": {"tile_k": 256},
            "invalidity": "correct",
            "correctness": 1,
            "times": {"compilation": 100.0, "benchmark": 2.0, "runtimes": [0.02, 0.021]},
            "objectives": ["time"],
            "measurements": [{"name": "time", "value": 0.02, "unit": "ms"}],
        }
    ],
}
SHAPES = "\n".join(
    json.dumps({"token": tokens, "model_dim": 7168, "inter_dim": 256, "expert": 384, "topk": 8, "count": 3})
    for tokens in (1, 4, 160)
)
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "nan",
    "\u0000",
    "é",
    "a" * 300,
    [],
    [0],
    [[]],
    [None, 1],
    {},
    {"": None},
    "128",
    [128, 128],
    3.0,
    "true",
]

NO_TEXT: tuple[bytes, ...] = (
    b"",
    b" \n",
    b"\0",
    b"\0" * 5000,
    b"\xff\xfe\x80",
    b"\xef\xbb\xbf",
    '{"a": 1}'.encode("utf-16"),
    b"a" * 200_000,
    b"1" * 5000,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"a = " + b"[" * 50_000,
    b"a = " + b"1" * 5000,
)
"""What a file may hold that is none of the kind that is read."""
EXPORTED = {
    "format": "autotune-bundle",
    "version": VERSION,
    "backend": "triton",
    "tool_version": "0.1.0",
    "measured": True,
    "files": {"a.json": {"bytes": 2, "sha256": "00"}},
    "lookups": {"triton": {"file": "a.json", "device": "x"}},
    "winners": [{"problem": "p", "config": {"stage1": {}}}],
}

_ONE = {"tile_m": 16, "tile_n": 64, "tile_k": 512, "num_warps": 4, "num_stages": 3}
OPERATOR = {
    "format": "autotune-moe-w4a8",
    "version": 1,
    "gpu": {"name": "NVIDIA H100 80GB HBM3", "compute_units": 132},
    **LAYER.dims,
    "entries": [{"tokens": 4, "stage1": _ONE, "stage2": {**_ONE, "tile_k": 256, "num_stages": 2}}],
}
PLAN = """[[problems]]
model = "qwen3-235b-a22b"
tp = 8
shape = "m1,m4"
concurrency = "1,40"
trials = 40
timeout = 600
weight = 2.5

[[problems]]
backend = "triton"
shape = "m2"
"""
