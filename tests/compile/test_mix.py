"""Every instruction is of one kind."""

from autotune.compile.isa import instruction_counts
from autotune.report.isa import instruction_mix
from tests.compile.test_static import ASM


def test_each_instruction_counts_once() -> None:
    mix = instruction_mix(ASM)
    assert mix == {
        "s_waitcnt": 2,
        "mfma": 1,
        "ds_read": 1,
        "ds_write": 1,
        "buffer_load": 1,
        "global_load": 1,
        "s_load": 1,
        "scalar": 1,
    }
    assert sum(mix.values()) == instruction_counts(ASM).total()


def test_text_without_instructions_has_no_kinds() -> None:
    assert instruction_mix(".version 8.0\n.target sm_90") == {}
