"""On each kind of machine: what is there, what follows for each backend, and the one thing to do."""

from pathlib import Path

import pytest

from autotune.backends.aiter_main.backend import stage2_misfit
from autotune.doctor.examine import Examination, examine
from autotune.protocol.doctor import Ability, Can, Finding, State
from autotune.serving import versions
from tests.doctor.machines import (
    aiter,
    bare_machine,
    cuda_machine,
    host,
    package,
    rocm_machine,
    torch,
    write,
)
from tests.standins import with_buffer_atomics


def finding(examination: Examination, name: str) -> Finding:
    return next(one for one in examination.findings if one.name == name)


def ability(examination: Examination, backend: str) -> Ability:
    return examination.abilities[backend]


def test_the_card_with_the_published_image_measures_with_aiter(tmp_path: Path) -> None:
    seen = examine(rocm_machine(tmp_path))
    assert "mi325x (gfx942, 304 CUs), driver 6.16.6" in finding(seen, "GPU").detail
    assert finding(seen, "ROCm").detail.startswith("7.2.0")
    assert finding(seen, "torch").detail == "2.9.0+rocm7.2 (hip 7.2.0)"
    assert finding(seen, "AITER").detail.startswith("published, version 0.1.12")
    assert finding(seen, "tree and wheel match").there
    assert "opt/rocm/llvm/bin/ld.lld" in finding(seen, "linker").detail
    assert ability(seen, "aiter") == Ability(Can.MEASURE)
    assert ability(seen, "triton").can is Can.MEASURE
    assert ability(seen, "flydsl").can is Can.MEASURE
    assert ability(seen, "aiter_main").can is Can.NOTHING


def test_the_h100_measures_with_triton_and_is_told_that_aiter_is_not_for_it(tmp_path: Path) -> None:
    seen = examine(cuda_machine(tmp_path))
    assert finding(seen, "GPU").detail == "NVIDIA H100 80GB HBM3 (sm_90, 132 SMs), driver 580.65.06"
    assert finding(seen, "CUDA").detail.startswith("13.0")
    assert ability(seen, "triton").can is Can.MEASURE
    assert ability(seen, "aiter").can is Can.NOTHING
    assert "AMD Instinct" in ability(seen, "aiter").remedy


def test_a_bare_machine_is_told_the_one_thing_to_do_for_each_no(tmp_path: Path) -> None:
    seen = examine(bare_machine(tmp_path))
    nos = [one for one in seen.findings if one.state is State.NO]
    assert {one.name for one in nos} >= {
        "GPU",
        "torch",
        "Triton",
        "AITER",
        "FlyDSL tree",
        "FlyDSL wheel",
        "linker",
    }
    assert all(one.remedy for one in nos)
    assert all(one.can is Can.NOTHING and one.remedy for one in seen.abilities.values())


@pytest.mark.parametrize(("conversion", "state"), [(1, State.NO), (2, State.YES)])
def test_the_third_published_patch_is_read_from_the_source(
    tmp_path: Path, conversion: int, state: State
) -> None:
    machine = rocm_machine(tmp_path)
    aiter(tmp_path, conversion=conversion)
    assert finding(examine(machine), "FMHA rounds to zero").state is state


def test_aiter_main_is_told_from_the_published_generation(tmp_path: Path) -> None:
    machine = rocm_machine(tmp_path)
    aiter(tmp_path, published=False)
    seen = examine(machine)
    assert finding(seen, "AITER").detail.startswith("main")
    assert ability(seen, "aiter_main").can is Can.MEASURE
    assert ability(seen, "aiter").can is not Can.MEASURE
    assert "--backend aiter_main" in ability(seen, "aiter").remedy


def test_aiter_mains_own_kernels_need_its_wheel_and_some_are_of_one_stage_on_this_card(
    tmp_path: Path,
) -> None:
    machine = rocm_machine(tmp_path)
    assert ability(examine(machine), "aiter_main_w4a16").can is Can.NOTHING  # AITER is the published one
    aiter(tmp_path, published=False)
    without = ability(examine(machine), "aiter_main_w4a16")
    assert without.can is Can.NOTHING
    assert without.remedy.endswith("pip install flydsl==0.3.1")
    next((tmp_path).rglob("flydsl-0.1.5.dist-info")).rename(tmp_path / "gone")
    package(tmp_path, "flydsl", "0.3.1")
    assert ability(examine(machine), "aiter_main_w4a16") == Ability(Can.MEASURE)
    with_buffer_atomics(next(tmp_path.rglob("aiter")))
    stage2_misfit.cache_clear()
    there = ability(examine(machine), "aiter_main_w4a16")
    assert there.can is Can.MEASURE
    assert there.remedy.startswith("stage 1 only")


def test_without_a_gpu_a_stage_2_that_has_no_code_for_the_card_is_told_as_well(tmp_path: Path) -> None:
    machine = bare_machine(tmp_path)
    aiter(tmp_path, published=False)
    package(tmp_path, "flydsl", "0.5.0")
    assert ability(examine(machine), "aiter_main_w4a16").remedy.startswith("run it on a machine with")
    with_buffer_atomics(next(tmp_path.rglob("aiter")))
    stage2_misfit.cache_clear()
    told = ability(examine(machine), "aiter_main_w4a16")
    assert told.can is Can.COMPILE
    assert "git checkout ba59a37aa6" in told.remedy


def test_a_source_tree_of_aiter_may_be_named(tmp_path: Path) -> None:
    machine = bare_machine(tmp_path, AUTOTUNE_AITER_SRC=str(tmp_path / "src"))
    write(tmp_path / "src/aiter/fused_moe.py", "AITER_W4A8_USE_INT8")
    assert finding(examine(machine), "AITER").detail.startswith("published")


def test_a_torch_for_another_vendor_is_a_no(tmp_path: Path) -> None:
    machine = rocm_machine(tmp_path)
    torch(tmp_path, "2.9.1+cu128", cuda="'12.8'")
    seen = examine(machine)
    assert finding(seen, "torch").state is State.NO
    assert "ROCm build" in finding(seen, "torch").remedy
    assert ability(seen, "triton").can is Can.COMPILE
    assert ability(seen, "aiter").remedy == "install the ROCm build of torch"


def test_a_tree_without_its_wheel_names_the_wheel_to_install(tmp_path: Path) -> None:
    machine = bare_machine(tmp_path, DSL2_ROOT="/opt/FlyDSL")
    write(tmp_path / "opt/FlyDSL/kernels/moe/moe_gemm_2stage/__init__.py")
    package(tmp_path, "flydsl", "0.1.5")
    seen = examine(machine)
    assert "flydsl==0.5.0" in finding(seen, "tree and wheel match").remedy
    assert ability(seen, "flydsl").can is Can.NOTHING


@pytest.mark.parametrize(("wheel", "state"), [("0.1.5", State.NO), ("0.1.1.dev409", State.YES)])
def test_an_aiter_that_pins_the_wheel_is_told_from_one_that_takes_it(
    tmp_path: Path, wheel: str, state: State
) -> None:
    machine = bare_machine(tmp_path)
    aiter(tmp_path)
    package(tmp_path, "flydsl", wheel)
    pin = '_REQUIRED_FLYDSL_VERSION = "0.1.1.dev409"'
    write(next(tmp_path.rglob("aiter/ops/flydsl")) / "__init__.py", pin)
    assert finding(examine(machine), "AITER takes the wheel").state is state


@pytest.mark.parametrize(("name", "words"), [("ld.lld-19", "ld.lld-19"), ("ld.lld-18", "ld.lld-18")])
def test_a_debian_linker_is_found_by_its_version(tmp_path: Path, name: str, words: str) -> None:
    machine = bare_machine(tmp_path)
    write(tmp_path / "usr/bin" / name).chmod(0o755)
    assert words in finding(examine(machine), "linker").detail


def test_debians_default_linker_is_too_old(tmp_path: Path) -> None:
    machine = bare_machine(tmp_path)
    write(tmp_path / "usr/bin/ld.lld-14").chmod(0o755)
    write(tmp_path / "usr/bin/ld.lld").chmod(0o755)
    assert finding(examine(machine), "linker").state is State.NO


def test_ziglangs_linker_will_do(tmp_path: Path) -> None:
    machine = bare_machine(tmp_path)
    package(tmp_path, "ziglang", "0.17.1")
    assert "ziglang" in finding(examine(machine), "linker").detail


def test_a_filled_cache_of_flydsl_could_lie(tmp_path: Path) -> None:
    machine = rocm_machine(tmp_path)
    write(tmp_path / "root/.flydsl/cache/moe_gemm1_1234/a.pkl")
    lying = finding(examine(machine), "FlyDSL's cache")
    assert lying.state is State.WARNING
    assert "rm -r" in lying.remedy


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FLYDSL_MOE_STAGE1_SCHED", "on", "means off"),
        ("FLYDSL_MOE_STAGE2_SCHED", "yes", "means on"),
        ("AITER_FLYDSL_STAGE1_TILE_N", "sixty-four", "is not a number"),
        ("AITER_FLYDSL_STAGE2_TILE_M", "32", "wrong numbers"),
        ("AITER_FLYDSL_STAGE2_TILE_K", "256", "no default"),
    ],
)
def test_a_variable_that_changes_every_candidate_could_lie(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    lying = finding(examine(host(tmp_path, {name: value})), name)
    assert lying.state is State.WARNING
    assert words in lying.detail
    assert lying.remedy.startswith(f"unset {name}")


def test_the_engines_that_the_plugins_were_tested_with_are_listed_and_another_version_is_a_warning(
    tmp_path: Path,
) -> None:
    rows = {row.package: row.version for row in versions.TESTED}
    machine = bare_machine(tmp_path)
    package(tmp_path, "vllm", rows["vllm"])
    package(tmp_path, "sglang", "0.6.1")
    seen = examine(machine)
    assert finding(seen, "plugin in vllm").state is State.YES
    assert f"tested with {rows['vllm']} (installed)" in finding(seen, "plugin in vllm").detail
    other = finding(seen, "plugin in sglang")
    assert other.state is State.WARNING
    assert f"tested with {rows['sglang']} (0.6.1 is installed)" in other.detail
    assert other.remedy == f"pip install sglang=={rows['sglang']}"
    assert "no server" in other.detail
