"""The script that holds the estimate against AITER's tuned rows: what it reads, and what a fit finds."""

import csv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = (
    *(
        "gfx",
        "cu_num",
        "token",
        "model_dim",
        "inter_dim",
        "expert",
        "topk",
        "q_dtype_w",
        "us1",
        "kernelName1",
    ),
    *("us2", "kernelName2", "us", "run_1stage"),
)
CK1 = "moe_ck2stages_gemm1_256x32x64x128_1x4_TypeCast_v1_Nswizzle0_Quant0_MulRoutedWeight0_silu_B16_B16"
CK2 = "moe_ck2stages_gemm2_256x64x128x64_1x4_TypeCastExpertWeight_v3_Nswizzle0_Quant0_B16_B16_B16"
ASM = "_ZN5aiter50fmoe_bf16_blockscaleFp8_g1u1_vs_silu_1tg_ps_32x256E"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import estimate_on_gfx942

    return estimate_on_gfx942


def row(tokens: int = 4, inter: int = 384, **more: str) -> dict[str, str]:
    base = {
        "gfx": "gfx942",
        "cu_num": "304",
        "token": str(tokens),
        "model_dim": "4096",
        "inter_dim": str(inter),
    }
    base |= {"expert": "128", "topk": "8", "q_dtype_w": "torch.bfloat16", "run_1stage": "0"}
    base |= {"us1": "50", "us2": "30", "us": "80", "kernelName1": CK1, "kernelName2": CK2}
    return {**base, **more}


def table(tree: Path, rows: list[dict[str, str]]) -> None:
    path = tree / "aiter/configs/model_configs/any_tuned_fmoe.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_only_timed_rows_of_such_gpus_and_known_formats_count(script: Any, tmp_path: Path) -> None:
    others = [row(cu_num="80"), row(gfx="gfx950"), row(us="0.0"), row(q_dtype_w="torch.float4_e2m1fn_x2")]
    one = row(run_1stage="1", q_dtype_w="torch.float8_e4m3fnuz", kernelName1=ASM, kernelName2="", us="81")
    table(tmp_path, [row(), *others, one, row(kernelName1="another_family", us2="33")])
    timed = [launch for each in script.rows(tmp_path) for launch in script.launches(each)]
    assert [launch.us for launch in timed] == [50, 30, 81, 33]
    assert [len(launch.works) for launch in timed] == [1, 1, 2, 1]
    first, second = timed[0].works[0], timed[1].works[0]
    # 4 tokens at top 8 of 128: 31 experts, each of 768 x 4096 and 4096 x 384 bfloat16.
    assert first.bytes_moved == pytest.approx(29.1 * 768 * 4096 * 2, rel=0.05)
    assert second.bytes_moved == pytest.approx(29.1 * 4096 * 384 * 2, rel=0.05)
    assert first.workgroups == pytest.approx((29.1 + 1) * 768 / 64, rel=0.01)  # one block of 32 slots is full
    assert (first.bytes_in_flight, second.bytes_in_flight) == (64 * 128 * 2, 2 * 128 * 64 * 2)


def test_a_fit_finds_the_bandwidth_and_latency_that_the_times_were_made_with(
    script: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    table(tmp_path, [row(m, inter) for m in (1, 2, 4, 8, 16, 32) for inter in (192, 384)])
    timed = [launch for each in script.rows(tmp_path) for launch in script.launches(each)]
    made = [replace(launch, us=launch.estimate(4.0e12, 2.0e-6)) for launch in timed]
    bandwidth, latency = script.fit(made)
    # Little tells the two apart, so the grid's neighbours do as well.
    assert bandwidth == pytest.approx(4.0e12, rel=0.15)
    assert latency == pytest.approx(2.0e-6, rel=0.25)
    assert script.ratios(made, bandwidth, latency) == pytest.approx([1.0] * len(made), rel=0.05)


def test_a_tree_without_tables_is_told(script: Any, tmp_path: Path) -> None:
    from autotune.errors import UserError

    with pytest.raises(UserError, match="tuned_fmoe"):
        list(script.rows(tmp_path))
