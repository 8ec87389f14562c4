"""The texts of a bundle and the sentences about one, as users and servers read them."""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.export import bundle as bundles
from autotune.export import deploy as deploying
from autotune.export import export as exporting
from autotune.export.bundle import write_bundle
from autotune.export.deploy import deploy_files
from autotune.export.env_file import config_map_text, env_files, env_text, shell_text, systemd_text
from autotune.export.export import Selection, select, serving_folder
from autotune.export.shape_log import LoggedShape, ShapeLog, read_shape_log
from autotune.machine.targets import Kind
from autotune.problem.layer import Layer
from autotune.problem.models import known_needs, requantised
from autotune.protocol.bundle import MANIFEST
from autotune.protocol.exporter import Stack
from autotune.store.records import WinnerRecord
from tests.export.winners import KIMI, winner


def refused(error: type[Exception] = UserError) -> Any:
    return pytest.raises(error)


# The environment's four texts.


def test_the_four_texts_of_an_environment() -> None:
    assert env_files({"B": "2", "A": "x:/y"}, "first\nsecond") == {
        "autotune.env": "# first\n# second\nA=x:/y\nB=2\n",
        "env/autotune.sh": "# first\n# second\nexport A=x:/y\nexport B=2\n",
        "env/configmap.yaml": (
            "# first\n# second\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: moe-autotune\ndata:\n"
            '  A: "x:/y"\n  B: "2"\n'
        ),
        "env/autotune.conf": '# first\n# second\n[Service]\nEnvironment="A=x:/y"\nEnvironment="B=2"\n',
    }
    assert config_map_text({}, "c").endswith("metadata:\n  name: moe-autotune\ndata: {}\n")
    assert shell_text({}, "") == "\n"


def test_values_that_only_some_texts_can_hold_are_quoted_there() -> None:
    nasty = {"A": 'it\'s 100% "so" \\n'}
    assert shell_text(nasty, "c") == "# c\nexport A='it'\"'\"'s 100% \"so\" \\n'\n"
    assert systemd_text(nasty, "c") == '# c\n[Service]\nEnvironment="A=it\'s 100%% \\"so\\" \\\\n"\n'
    with refused() as told:
        env_text(nasty, "c")
    assert str(told.value) == (
        f"A={nasty['A']!r} has a character that a shell and docker read differently: choose a path of plain"
        " letters with --bundle-path"
    )


@pytest.mark.parametrize("render", [env_text, shell_text, config_map_text, systemd_text])
def test_what_no_environment_can_hold_is_refused_in_each(render: Any) -> None:
    for name in ("", "1A", "A-B", "A B", "Ä"):
        with refused() as told:
            render({name: "1"}, "c")
        assert str(told.value) == f"{name!r} is not a name of an environment variable: correct the backend"
    if render is not env_text:
        with refused() as told:
            render({"A": "x\ty"}, "c")
        assert str(told.value) == (
            "A='x\\ty' has a control character, which no environment file can hold: take it out"
        )
    assert "_a1" in render({"_a1": "1"}, "c")


# Launch examples.


def test_the_sglang_example_whole() -> None:
    layer = Layer("kimi", 7168, 256, 48, 8, 8, ep=4)
    files = deploy_files("sglang", "/opt/my b", [winner(4, layer=layer)], {"X": "1"})
    script = (
        "#!/bin/sh\n"
        "# The {} arm. Stack: mainline sglang: its Triton fused MoE reads the JSON files of this bundle.\n"
        "# MODEL and DRAFT are folders or Hugging Face names of the model and its EAGLE3 draft.\n"
        "# Rollback: start the baseline arm, and delete the bundle's folder; nothing else was changed.\n"
        "set -eu\n"
        "{}"
        "exec python3 -m sglang.launch_server \\\n"
        '  --model-path "$MODEL" \\\n'
        "  --tp-size 8 \\\n"
        "  --ep-size 4 \\\n"
        "  --trust-remote-code \\\n"
        "  --moe-runner-backend triton \\\n"
        "  --speculative-algorithm EAGLE3 \\\n"
        '  --speculative-draft-model-path "$DRAFT" \\\n'
        "  --speculative-num-steps 3 \\\n"
        "  --speculative-eagle-topk 1 \\\n"
        "  --speculative-num-draft-tokens 4\n"
    )
    assert files == {
        "deploy/sglang-baseline.sh": script.format("baseline", ""),
        "deploy/sglang-tuned.sh": script.format("tuned", ". '/opt/my b/env/autotune.sh'\n"),
    }
    assert "--ep-size" not in deploy_files("sglang", "/b", [winner(4)], {})["deploy/sglang-tuned.sh"]


def test_the_vllm_example_whole() -> None:
    files = deploy_files("vllm", "/opt/b", [winner(4, backend="vllm", device="offline:mi325x")], {})
    estimated = replace(winner(4, backend="vllm"), kind=Kind.ESTIMATE)
    noted = deploy_files("vllm", "/opt/b", [estimated], {})["deploy/vllm-tuned.sh"]
    script = (
        "#!/bin/sh\n"
        "# The tuned arm. Stack: mainline vllm: its Triton fused MoE reads the JSON files of this bundle.\n"
        "{}"
        "# MODEL and DRAFT are folders or Hugging Face names of the model and its EAGLE3 draft.\n"
        "# Rollback: start the baseline arm, and delete the bundle's folder; nothing else was changed.\n"
        "set -eu\n"
        'exec vllm serve "$MODEL" \\\n'
        "  --tensor-parallel-size 8 \\\n"
        "  --trust-remote-code \\\n"
        '  --speculative-config \'{{"method": "eagle3", "model": "\'"$DRAFT"\'",'
        ' "num_speculative_tokens": 3}}\'\n'
    )
    assert files["deploy/vllm-tuned.sh"] == script.format("")
    note = exporting.estimate_note([estimated])
    assert note
    assert noted == script.format(f"# The bundle holds {note}.\n")


@pytest.mark.parametrize(
    ("tp", "ep", "flags"),
    [
        (8, 1, ["--tensor-parallel-size 8"]),
        (8, 8, ["--tensor-parallel-size 8", "--enable-expert-parallel"]),
        (4, 16, ["--tensor-parallel-size 4", "--data-parallel-size 4", "--enable-expert-parallel"]),
        (8, 4, ["--tensor-parallel-size 8", "--enable-expert-parallel"]),
    ],
)
def test_vllm_spreads_experts_over_all_ranks(tp: int, ep: int, flags: list[str]) -> None:
    layer = Layer("kimi", 7168, 256, 48, 8, tp, ep=ep)
    script = deploy_files("vllm", "/b", [winner(4, backend="vllm", layer=layer)], {})["deploy/vllm-tuned.sh"]
    told = [line.strip(" \\") for line in script.splitlines() if "parallel" in line]
    assert told == flags


def test_what_a_stack_needs_is_set_in_both_arms_and_what_it_must_have_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = Stack("a stack", {"B": "it's", "A": "1"}, required="ROOT", arguments=("--own",))
    exporter = SimpleNamespace(stacks={"vllm": stack})
    monkeypatch.setattr(deploying, "load_exporter", lambda backend: exporter)
    for script in deploy_files("vllm", "/b", [winner(4)], {}).values():
        assert (
            "set -eu\n: \"${ROOT:?the image sets it}\"\nexport B='it'\"'\"'s'\nexport A=1\nexec vllm serve"
        ) in script
        assert "  --trust-remote-code \\\n  --own \\\n" in script


def test_an_engine_that_cannot_serve_the_winners_is_refused_with_one_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with refused() as told:
        deploy_files("tgi", "/b", [winner(4)], {})
    assert str(told.value) == "unknown engine 'tgi': use --deploy sglang or vllm"
    stacks: dict[str, Stack] = {}
    monkeypatch.setattr(deploying, "load_exporter", lambda backend: SimpleNamespace(stacks=stacks))
    with refused() as told:
        deploy_files("vllm", "/b", [winner(4)], {})
    assert str(told.value) == (
        "no launch of vllm is known to run the kernels of backend sglang: leave --deploy out"
    )
    stacks.update(sglang=Stack("x"), other=Stack("y"))
    with refused() as told:
        deploy_files("vllm", "/b", [winner(4)], {})
    assert str(told.value) == "winners of backend sglang serve in sglang or other: use that --deploy"


# A log of shapes.

LAYER = Layer("kimi", model_dim=7168, inter_dim=256, experts=384, top_k=8, tp=8)
OWN = (("E", 384), ("K", 7168), ("inter", 256), ("topk", 8))


def log(calls: Mapping[int, int], others: Mapping[int, int] | None = None, **more: Any) -> ShapeLog:
    made = {LoggedShape(tokens, OWN): count for tokens, count in calls.items()}
    made |= {LoggedShape(4, (("E", experts),)): count for experts, count in (others or {}).items()}
    return ShapeLog("/logs/shapes.jsonl", made, **{"counted": True, **more})


def by_tens(tokens: int) -> int:
    return -(-tokens // 10)


def test_lines_that_are_no_shape_are_told_by_their_numbers_the_first_eight_of_many() -> None:
    for torn, told in (
        ((3,), "3"),
        (range(1, 9), "1, 2, 3, 4, 5, 6, 7, 8"),
        (range(1, 11), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more"),
    ):
        _, notes = log({4: 1}, torn=tuple(torn)).traffic(LAYER, [4], None)
        assert notes == [f"shapes.jsonl: {len(torn)} torn and skipped, line {told}"]


def test_calls_of_other_layers_are_told_by_the_three_most_frequent() -> None:
    _, notes = log({4: 10}, {1: 5, 2: 7, 3: 6}).traffic(LAYER, [4], None)
    assert notes == ["shapes.jsonl: 18 of 28 calls left out, of other layers: 7 of E=2; 6 of E=3; 5 of E=1"]
    _, notes = log({4: 10}, {1: 5, 2: 7, 3: 6, 9: 1}).traffic(LAYER, [4], None)
    assert notes[0].endswith("7 of E=2; 6 of E=3; 5 of E=1; 1 more")
    _, notes = log({4: 10}, {1: 5, 2: 7, 3: 6, 9: 1, 8: 2}).traffic(LAYER, [4], None)
    assert notes == [
        "shapes.jsonl: 21 of 31 calls left out, of other layers: 7 of E=2; 6 of E=3; 5 of E=1; 2 more"
    ]


def test_a_log_without_counts_says_what_a_line_is() -> None:
    _, notes = log({4: 2}, counted=False).traffic(LAYER, [4], None)
    assert notes == ["shapes.jsonl has no counts: a line is a call, while AITER logs a size once a process"]


def test_counts_fold_into_the_next_above_in_their_bucket_or_else_the_one_below() -> None:
    shares, notes = log({1: 1, 3: 2, 9: 4, 11: 8, 25: 5}).traffic(LAYER, [8, 2, 4, 11], by_tens)
    assert shares == {2: 1.0, 4: 2.0, 8: 4.0, 11: 8.0}
    assert list(shares) == [2, 4, 8, 11]
    assert notes == [
        "2 tokens stand for 1 too: the engine's bucket is the same",
        "4 tokens stand for 3 too: the engine's bucket is the same",
        "8 tokens stand for 9 too: the engine's bucket is the same",
        "not in the mix: 25% of the layer's calls, at 25 tokens, which share no bucket with a shape that was"
        " timed; tune them too",
    ]
    shares, notes = log({11: 8}).traffic(LAYER, [11], by_tens)
    assert (shares, notes) == ({11: 8.0}, [])


def test_a_log_that_tells_nothing_of_the_layer_is_refused() -> None:
    with refused() as told:
        log({}, {128: 3}).traffic(LAYER, [4], None)
    assert str(told.value) == (
        "/logs/shapes.jsonl has no call of the layer E=384 K=7168 inter=256 topk=8, but of E=128: record the"
        " shapes of the model that is exported"
    )
    with refused() as told:
        log({3: 1, 5: 1}).traffic(LAYER, [4, 8], None)
    assert str(told.value) == (
        "/logs/shapes.jsonl: none of its token counts, 3, 5, was timed or shares the engine's bucket with one"
        " that was, 4, 8: tune them too"
    )


@pytest.mark.parametrize(
    ("dtype", "inter", "is_of"),
    [
        *[(dtype, 32, True) for dtype in ("torch.uint32", "torch.int32", "uint32", "int32")],
        *[(dtype, 128, True) for dtype in ("torch.uint8", "torch.int8", "torch.float4_e2m1fn_x2")],
        *[(dtype, 64, False) for dtype in ("torch.uint32", "torch.uint8")],
        *[(dtype, 256, True) for dtype in ("torch.uint32", "torch.uint8", "torch.bfloat16", "None")],
        *[(dtype, inter, False) for dtype in ("torch.bfloat16", "None") for inter in (32, 128)],
    ],
)
def test_a_packed_width_may_stand_for_the_layers(dtype: str, inter: int, is_of: bool, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(f'{{"tokens": 4, "inter": {inter}, "w_dtype": "{dtype}"}}\n')
    ((shape, count),) = read_shape_log(path).calls.items()
    assert (shape.is_of(LAYER), count) == (is_of, 1)
    assert LoggedShape(4, (("inter", 128),)).packed == 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "no call"),
        ('{"tokens": 0}\n{"tokens": 4, "count": 0}\n', "no call"),
        ("a\n\nb\n", "2 lines without a JSON object with tokens"),
        ('{"tokens": 0}\n[1]\n', "1 line without a JSON object with tokens"),
    ],
)
def test_a_file_that_is_no_log_is_told_by_what_it_has(content: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(content)
    with refused() as told:
        read_shape_log(path)
    assert str(told.value) == (
        f"{path} is not a log of shapes, it has {what}: record one with MOE_SHAPE_LOG_PATH"
    )
    with refused() as told:
        read_shape_log(tmp_path / "none")
    assert str(told.value) == (
        f"{tmp_path}/none cannot be read (No such file or directory): give a log of shapes"
    )


def test_a_log_is_read_with_its_place_its_torn_lines_and_whether_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'\xef\xbb\xbf{"tokens": 4}\n\nx\n{"tokens": 4, "count": 2}\n{"tokens": 0}\n')
    read = read_shape_log(path)
    assert read == ShapeLog(str(path), {LoggedShape(4): 3}, [3], True)
    path.write_text('{"tokens": 4}\n')
    assert read_shape_log(path) == ShapeLog(str(path), {LoggedShape(4): 1}, [], False)


# Writing a bundle.


def test_a_bundles_folder_is_for_all_to_read_and_its_lines_end_alike(tmp_path: Path) -> None:
    folder = tmp_path / "new/deploy"
    write_bundle(folder, {MANIFEST: "a\nb\n", "sub/deep/x.json": "1"})
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / MANIFEST).read_bytes() == b"a\nb\n"
    assert (folder / "sub/deep/x.json").read_text() == "1"


def test_what_is_in_the_way_is_told_and_left(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, sentence in (
        ("full", "holds files that are no bundle: choose an empty or new folder with --out"),
        ("file", "is a file: choose a folder with --out"),
    ):
        with refused() as told:
            write_bundle(tmp_path / name, {MANIFEST: "{}"})
        assert str(told.value) == f"{tmp_path}/{name} {sentence}"
    with refused() as told:
        write_bundle(tmp_path / "file/deploy", {MANIFEST: "{}"})
    assert str(told.value).startswith(f"cannot write beside {tmp_path}/file/deploy (")
    assert str(told.value).endswith("): choose another --out")


def test_a_folder_that_cannot_be_written_is_told_with_what_may_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused() as told:
        write_bundle(tmp_path / "deploy", {MANIFEST: "{}"})
    assert str(told.value) == (
        f"cannot write {tmp_path}/deploy (No space left on device): free some space, or choose a new folder"
        " inside it if it is a mount point or the working folder"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "renames"),
    [
        (errno.EINVAL, True),
        (errno.ENOSYS, True),
        (errno.EPERM, True),
        (errno.ENOTSUP, True),
        (errno.EBUSY, False),
    ],
)
def test_where_the_kernel_cannot_swap_folders_they_are_renamed_and_other_errors_are_told(
    code: int, renames: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "is").write_text(folder.name)
    asked: list[tuple[Any, ...]] = []

    class Kernel:
        def __init__(self, name: None, use_errno: bool) -> None:
            assert use_errno

        def renameat2(self, *of: Any) -> int:
            asked.append(of)
            return -1

    monkeypatch.setattr(bundles.ctypes, "CDLL", Kernel)
    monkeypatch.setattr(bundles.ctypes, "get_errno", lambda: code)
    if renames:
        bundles._exchange(new, old)
        assert ((old / "is").read_text(), (new / "is").read_text()) == ("new", "old")
    else:
        with pytest.raises(OSError, match="Device or resource busy") as told:
            bundles._exchange(new, old)
        assert (told.value.errno, told.value.filename) == (code, str(old))
        assert (old / "is").read_text() == "old"
    assert asked == [(-100, os.fsencode(new), -100, os.fsencode(old), 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


# Which winners are exported.


def test_without_options_our_own_measured_winners_of_any_layer_are_selected() -> None:
    everything = {"layer": None, "device": None, "tp": None, "ep": None, "fused_shared": False}
    measured = {"allow_estimates": False, "requantised": False}
    assert Selection() == Selection(backend="triton", **everything, **measured)  # type: ignore[arg-type]


def test_a_selection_is_told_as_the_user_made_it() -> None:
    assert str(Selection("vllm")) == "of backend vllm"
    whole = Selection("vllm", KIMI, "MI325X", tp=8, ep=4, fused_shared=True)
    assert str(whole) == (
        f"of backend vllm for {KIMI.key} at TP 8 at EP 4 with fused shared experts on a device called MI325X"
    )


@pytest.mark.parametrize(
    ("selection", "takes"),
    [
        (Selection(), True),
        (Selection(layer=KIMI), True),
        (Selection(layer=replace(KIMI, tp=4)), False),
        (Selection(device="mi325x"), True),
        (Selection(device="Instinct"), True),
        (Selection(device="H100"), False),
        (Selection(tp=8), True),
        (Selection(tp=4), False),
        (Selection(ep=1), True),
        (Selection(ep=8), False),
        (Selection(fused_shared=True), False),
        (Selection(device="mi325x", tp=4), False),
    ],
)
def test_a_selection_takes_what_fits_all_of_it(selection: Selection, takes: bool) -> None:
    assert selection.takes(winner(4)) is takes
    shared = winner(4, layer=replace(KIMI, model="deepseek-v3+shared"))
    assert Selection(fused_shared=True).takes(shared)
    assert Selection().takes(shared)


def test_what_is_served_has_the_needs_that_were_told_else_what_is_known_by_its_name() -> None:
    layer = Layer("deepseek-v3", 7168, 256, 256, 8, 8)
    known = known_needs("deepseek-v3")
    assert known is not None
    assert Selection().served(layer) == replace(layer, needs=known)
    assert Selection(requantised=True).served(layer) == replace(
        layer, needs=requantised("deepseek-v3", known)
    )
    assert Selection(requantised=True).served(layer).needs != known
    told = replace(known, scheme=None)
    # With a layer it was asked of the model already.
    for again in (False, True):
        selection = Selection(layer=replace(layer, needs=told), requantised=again)
        assert selection.served(layer) == replace(layer, needs=told)
    untold = Selection(layer=replace(layer, needs=None))
    assert untold.served(layer) == replace(layer, needs=None)


class Stored:
    """A database of winners."""

    location = "/the/database"

    def __init__(self, *winners: WinnerRecord, wrong: Mapping[int, str] | None = None) -> None:
        self._winners, self._wrong = winners, wrong or {}

    def winners(
        self,
        *,
        backend: str,
        kind: Kind | None = None,
        environment_key: str | None = None,
        newest: int | None = None,
    ) -> list[WinnerRecord]:
        """Oldest first."""
        asked = [
            winner
            for winner in sorted(self._winners, key=lambda winner: winner.created_at)
            if winner.backend == backend
            and kind in (None, winner.kind)
            and environment_key in (None, winner.environment.key)
        ]
        return asked if newest is None else asked[-newest:]

    def verdicts_of(self, winners: Sequence[WinnerRecord]) -> list[dict[str, Any]]:
        told = [self._wrong.get(winner.id) for winner in winners]
        return [
            {} if each is None else {"stage1": SimpleNamespace(wrong=bool(each), text=each)} for each in told
        ]


def chosen(
    *winners: WinnerRecord, estimates: bool = False, wrong: Mapping[int, str] | None = None
) -> list[int]:
    selection = Selection("sglang", allow_estimates=estimates)
    return [winner.id for winner in select(Stored(*winners, wrong=wrong), selection)]  # type: ignore[arg-type]


def aged(record: WinnerRecord, id: int, hours: int, **changes: Any) -> WinnerRecord:
    return replace(record, id=id, created_at=record.created_at.replace(hour=hours), **changes)


def test_the_newest_winner_of_each_count_goes_out_ascending_by_tokens() -> None:
    eight, four = winner(8), winner(4)
    assert chosen(aged(eight, 9, 1), aged(four, 8, 2), aged(four, 7, 3), aged(four, 6, 1)) == [7, 9]


def test_the_layer_and_stack_of_the_newest_decide() -> None:
    four, elsewhere = winner(4), winner(8, device="AMD Instinct MI300X")
    other = winner(2, layer=replace(KIMI, tp=4))
    assert chosen(aged(four, 1, 3), aged(elsewhere, 2, 2), aged(other, 3, 1)) == [1]
    assert chosen(aged(four, 1, 1), aged(elsewhere, 2, 2), aged(other, 3, 1)) == [2]
    assert chosen(aged(four, 1, 1), aged(elsewhere, 2, 1), aged(other, 3, 2)) == [3]


def test_a_winner_that_was_asked_for_is_found_behind_a_thousand_others() -> None:
    asked = aged(winner(8, device="AMD Instinct MI300X"), 1, 2)
    stored = Stored(asked, *(aged(winner(4), 2 + n, 1) for n in range(1000)))
    selection = Selection("sglang", device="MI300X")
    assert select(stored, selection) == [asked]  # type: ignore[arg-type]


def test_estimates_go_out_only_where_they_are_let_and_nothing_was_measured() -> None:
    measured, estimate = aged(winner(4), 1, 1), aged(winner(8), 2, 2, kind=Kind.ESTIMATE)
    replayed = aged(winner(8), 3, 3, kind=Kind.REPLAYED)
    assert chosen(measured, estimate, replayed, estimates=True) == [1]
    assert chosen(estimate, replayed, estimates=True) == [2]
    for winners, sentence in (
        ((), "no winner of backend sglang is in /the/database: tune first with autotune run"),
        (
            (replayed,),
            "only replayed times match in /the/database, and those are never exported: run on the GPU",
        ),
        (
            (estimate, replayed),
            "only estimates match in /the/database, nothing measured: run on the GPU first, or pass"
            " --allow-estimates",
        ),
    ):
        with refused() as told:
            chosen(*winners)
        assert str(told.value) == sentence


def test_what_was_executed_and_is_wrong_goes_nowhere() -> None:
    four = winner(4)
    assert chosen(four, wrong={4: ""}) == [4]
    with refused() as told:
        chosen(four, wrong={4: "off by 3"})
    assert str(told.value) == (
        f"the measured winner of {four.problem.shape} is wrong, its stage1 machine code was executed (off by"
        " 3): run again, it will not be chosen"
    )


def test_a_serving_folder_is_absolute_and_has_no_slash_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert serving_folder(Path("deploy"), "/opt/b/") == "/opt/b"
    assert serving_folder(Path("deploy"), None) == f"{tmp_path}/deploy"
    with refused() as told:
        serving_folder(Path("deploy"), "opt/b")
    assert str(told.value) == (
        "--bundle-path 'opt/b' is not absolute: give the folder's whole path where it serves, e.g."
        " /opt/autotune"
    )


@pytest.mark.parametrize(
    "name", ["", "/etc/x", "env/x", "deploy/x", "autotune.env", "manifest.json", "../x", "a/../../x"]
)
def test_an_exporter_keeps_to_files_of_its_own(name: str) -> None:
    with refused() as told:
        exporting._refuse_other_places("mine", ["fine/x", name])
    assert str(told.value) == (
        f"the exporter of backend mine names a file {name!r}, which is not its own: name one in a folder of"
        " the exporter's"
    )
    exporting._refuse_other_places("mine", ["mine/env/x", "x.json", "a..b/x"])
