"""The launch examples against the real engines' options."""

import re

import pytest

from autotune.engines.source import find_source
from autotune.export.deploy import deploy_files
from tests.export.winners import winner


def test_sglang_has_every_speculative_flag_of_the_example() -> None:
    source = find_source("sglang")
    if source is None or not list(source.names("sglang/srt/arg_groups")):
        pytest.skip("no whole SGLang here: set AUTOTUNE_SGLANG_SRC to its wheel")
    fields = source.text("sglang/srt/arg_groups/fields/spec.py")
    script = deploy_files("sglang", "/b", [winner(4)], {})["deploy/sglang-tuned.sh"]
    flags = re.findall(r"--(speculative-[a-z-]+)", script)
    assert len(flags) == 5
    for flag in flags:
        assert re.search(rf"\b{flag.replace('-', '_')}\b", fields), flag
    assert "EAGLE3" in fields


def test_sglang_is_told_to_run_the_kernels_that_read_the_files() -> None:
    scripts = {
        backend: deploy_files("sglang", "/b", [winner(4, backend=backend)], {})
        for backend in ("sglang_w4a16", "triton")
    }
    for arm in ("baseline", "tuned"):
        assert "--moe-runner-backend triton" in scripts["sglang_w4a16"][f"deploy/sglang-{arm}.sh"]
        assert "--moe-runner-backend" not in scripts["triton"][f"deploy/sglang-{arm}.sh"]
    source = find_source("sglang")
    if source is not None and list(source.names("sglang/srt/arg_groups")):
        choices = source.text("sglang/srt/arg_groups/choices.py").partition("MOE_RUNNER_BACKEND_CHOICES = [")[
            2
        ]
        assert '"triton"' in choices.partition("]")[0]
        assert "moe_runner_backend" in source.text("sglang/srt/arg_groups/fields/exec_.py")


def test_vllm_has_every_field_of_the_examples_speculative_config() -> None:
    source = find_source("vllm")
    if source is None or "vllm/config/speculative.py" not in set(source.names("vllm/config")):
        pytest.skip("no whole vLLM here: set AUTOTUNE_VLLM_SRC to its wheel")
    config = source.text("vllm/config/speculative.py")
    script = deploy_files("vllm", "/b", [winner(4, backend="vllm")], {})["deploy/vllm-tuned.sh"]
    for field in re.findall(r'"(\w+)": ', script):
        assert re.search(rf"^    {field}\b", config, re.MULTILINE), field
    assert '"eagle3"' in config


def test_our_kernels_are_run_by_the_plugin_in_both_arms() -> None:
    from autotune.serving import experts, vllm

    for arm in ("baseline", "tuned"):
        script = deploy_files("vllm", "/b", [winner(4, backend="triton")], {"X": "y"})[
            f"deploy/vllm-{arm}.sh"
        ]
        assert f"--quantization {vllm.NAME}" in script
        assert "No model was served with it" in script
        scripts = deploy_files("sglang", "/b", [winner(4, backend="triton")], {})
        script = scripts[f"deploy/sglang-{arm}.sh"]
        assert f"export {experts.INT8_VARIABLE}=1" in script
        assert "--quantization" not in script  # SGLang's keeps its name
