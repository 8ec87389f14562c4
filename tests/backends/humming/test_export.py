"""The bundle for humming, and vLLM's own code with our plugin on it."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("humming")

from autotune.backends.humming import library
from autotune.backends.humming.backend import HummingBackend
from autotune.backends.humming.export import FILE_NAME, content_of
from autotune.backends.humming.knobs import entry
from autotune.backends.humming.lookup import FILES
from autotune.backends.humming.ranges import at, require_whole
from autotune.backends.humming.rows import row_of
from autotune.backends.humming.verify import HummingVerifier
from autotune.engines.source import EngineSource, find_source
from autotune.errors import UserError
from autotune.export.deploy import deploy_files
from autotune.machine.devices import DEVICES
from autotune.problem.layer import Stage
from autotune.protocol.bundle import Bundle
from autotune.protocol.exporter import Content, Place
from autotune.protocol.form import misfit
from autotune.protocol.lookup import Serving, Verification
from autotune.results import LayerConfig
from autotune.store.records import WinnerRecord
from tests.export.winners import KIMI, winner
from tests.verify.conftest import plant, write_as_bundle
from tests.verify.engines import fetched

H100 = {"device": "NVIDIA H100 80GB HBM3", "arch": "sm_90", "compute_units": 132}
TUNED = (1, 2, 3, 4, 5, 6, 7, 8, 160)


def sentinel(name: str, tokens: int, *, kept: bool = False) -> WinnerRecord:
    """A winner with values that nothing else has: blocks unlike in both stages, a depth for the stage."""
    backend = HummingBackend(row_of(name))
    default = LayerConfig(*(backend.default_config(KIMI, tokens, s, DEVICES["h100"]) for s in Stage))
    won = LayerConfig(
        default.stage1.replaced(num_stages=8, block_m=16, pdl=tokens % 2 == 0),
        default.stage2.replaced(num_stages=6, block_m=8, evict_weights_first=tokens % 2 == 0),
    )
    made = winner(tokens, backend=name, default=default, **H100)
    return replace(made, config=default if kept else won)


@pytest.fixture(
    scope="module", params=["humming_w4a8", pytest.param("humming_w4a16", marks=pytest.mark.slow)]
)
def made(request: pytest.FixtureRequest) -> Iterator[tuple[str, Content]]:
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        if name == "humming_w4a8":  # the other one, of the slow tests, has humming choose for all rows
            _choose_once_beyond(8 * 320, patch)
        winners = [sentinel(name, tokens, kept=tokens == 7) for tokens in TUNED]
        yield name, content_of(HummingBackend(row_of(name)), winners, "/opt/b")


def _choose_once_beyond(rows: int, patch: pytest.MonkeyPatch) -> None:
    """For more rows than a test asks about humming's choice is that for `rows`: it takes seconds to make."""
    library.without_gpu(DEVICES["h100"])
    heuristics = library.load("humming.tune").get_heuristics_class(device=0)
    choose, chosen = heuristics.get_config, {}

    def get_config(shape_m: int, **rest: Any) -> Any:
        key = (str(rest), min(shape_m, rows))
        if key not in chosen:
            chosen[key] = choose(shape_m=key[1], **rest)
        return chosen[key]

    patch.setattr(heuristics, "get_config", get_config)


def ranges_of(content: Content, sublayer: str) -> list[Any]:
    layers = {each["sublayer"]: each for each in json.loads(content.files[FILE_NAME])["layers"]}
    ranges: list[Any] = layers[sublayer]["ranges"]
    return ranges


def test_each_tuned_count_has_its_winner_and_every_other_humming_s_own(made: tuple[str, Content]) -> None:
    name, content = made
    backend = HummingBackend(row_of(name))
    for stage, sublayer in ((Stage.STAGE1, "w13"), (Stage.STAGE2, "w2")):
        ranges = ranges_of(content, sublayer)
        require_whole(ranges)
        for tokens in (*TUNED, 9, 39, 40, 159, 161, 320):
            found = at(ranges, 8 * tokens)
            if tokens in TUNED and tokens != 7:
                assert found == entry(sentinel(name, tokens).config.of(stage))
            else:
                own = backend.default_config(KIMI, tokens, stage, DEVICES["h100"])
                assert entry(own).items() >= {(k, v) for k, v in found.items() if k == "block_m"}
                assert found["num_stages"] == own["num_stages"]
                assert found["block_shape"][0] == own["block_m"]


def test_what_it_must_find_is_of_the_form_that_verify_goes_by(made: tuple[str, Content]) -> None:
    _, content = made
    lookup = json.loads(json.dumps(content.lookups["vllm"]))
    assert misfit(lookup, HummingVerifier.form) is None


def test_a_kept_default_is_not_written_over_humming_s_own(made: tuple[str, Content]) -> None:
    _, content = made
    tuned = json.loads(content.files[FILE_NAME])["tuned"]
    assert [48, 56] not in tuned
    assert [0, 8] in tuned
    assert [1272, 1280] in tuned


def test_the_file_is_known_by_what_it_was_made_for(made: tuple[str, Content]) -> None:
    name, content = made
    file = json.loads(content.files[FILE_NAME])
    assert file["gpu"] == "NVIDIA H100 80GB HBM3"
    assert file["compute"] == {"use_batch_invariant": False, "use_f16_accum": False, "gemm_type": "indexed"}
    w13, w2 = (each["layer"] for each in file["layers"])
    assert (w13["shape_n"], w13["shape_k"], w2["shape_n"], w2["shape_k"]) == (512, 7168, 7168, 256)
    assert w13["num_experts"] == 384
    assert w13["weight_scale_group_size"] == (0 if name == "humming_w4a8" else 32)
    assert w13["a_dtype"] == ("int8" if name == "humming_w4a8" else "bfloat16")
    assert content.variables == {"AUTOTUNE_HUMMING_CONFIG": f"/opt/b/{FILE_NAME}"}


def test_a_gpu_that_is_not_known_is_refused() -> None:
    won = replace(sentinel("humming_w4a8", 4))
    strange = replace(won, environment=replace(won.environment, device="NVIDIA L40S"))
    with pytest.raises(UserError, match="humming's own choice on 'NVIDIA L40S' is not known"):
        content_of(HummingBackend(row_of("humming_w4a8")), [strange], "/opt/b")


def test_both_arms_start_the_same_server_and_one_loads_the_bundle() -> None:
    scripts = deploy_files("vllm", "/opt/b", [winner(4, backend="humming_w4a16")], {"X": "y"})
    baseline, tuned = scripts["deploy/vllm-baseline.sh"], scripts["deploy/vllm-tuned.sh"]
    assert "/opt/b/env/autotune.sh" in tuned
    assert "/opt/b" not in baseline
    launch = baseline[baseline.index("exec vllm serve") :]
    assert tuned.endswith(launch)
    assert "quantization" not in launch


def test_int8_activations_are_asked_for_in_both_arms() -> None:
    scripts = deploy_files("vllm", "/opt/b", [winner(4, backend="humming_w4a8")], {"X": "y"})
    for arm in ("baseline", "tuned"):
        assert "--quantization humming" in scripts[f"deploy/vllm-{arm}.sh"]
        asked = re.search(
            r"^export VLLM_HUMMING_INPUT_QUANT_CONFIG=(.*)$", scripts[f"deploy/vllm-{arm}.sh"], re.M
        )
        assert asked is not None
        config = json.loads(shlex.split(asked[1])[0])
        schema = library.load("humming.schema").HummingInputSchema.from_config(config)
        assert str(schema.a_dtype) == "int8"


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> EngineSource:
    if os.environ.get("AUTOTUNE_FETCH_ENGINES") == "1" and "AUTOTUNE_VLLM_SRC" not in os.environ:
        os.environ["AUTOTUNE_VLLM_SRC"] = str(fetched("vllm"))
    source = find_source("vllm")
    if source is None or not {*FILES.values()} <= {*source.names("vllm")}:
        pytest.skip("no whole vLLM 0.33 here: set AUTOTUNE_VLLM_SRC to its wheel")
    return EngineSource("vllm", source.unpack(tmp_path_factory.mktemp("vllm"), *FILES.values()))


Verify = Callable[..., Verification]


@pytest.fixture
def verify(made: tuple[str, Content], vllm: EngineSource, tmp_path: Path) -> Verify:
    name, content = made

    def run(change: Callable[[Path], None] | None = None) -> Verification:
        write_as_bundle(tmp_path / "b", content, Place("/opt/b"), sentinel(name, 4))
        bundle = Bundle.read(tmp_path / "b")
        bundle = plant(bundle, change) if change else bundle
        return HummingVerifier().verify(bundle, Serving([vllm.root]))

    return run


def test_vllm_hands_each_shape_the_entry_that_was_meant(verify: Verify) -> None:
    verification = verify()
    assert verification.ok, [check for check in verification.checks if not check.ok]
    subjects = {check.subject for check in verification.checks}
    for tokens in (*range(1, 9), 40, 64, 160, 512, 4096):
        assert {f"stage1 at M = {tokens}", f"stage2 at M = {tokens}"} <= subjects
    assert any("takes" in note and "ranges of rows" in note for note in verification.notes)


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / FILE_NAME
        file = json.loads(path.read_text())
        change(file)
        path.write_text(json.dumps(file))

    return act


def unset(folder: Path) -> None:
    (folder / "autotune.env").write_text("")


def swapped(file: dict[str, Any]) -> None:
    one, two = file["layers"]
    one["ranges"], two["ranges"] = two["ranges"], one["ranges"]


def by_tokens(file: dict[str, Any]) -> None:
    """A careless tool that takes rows for tokens."""
    for layer in file["layers"]:
        layer["ranges"] = [
            [low // 8 if low < 1 << 20 else low, high // 8 if high < 1 << 20 else high, entry]
            for low, high, entry in layer["ranges"]
        ]


def gap(file: dict[str, Any]) -> None:
    for layer in file["layers"]:
        del layer["ranges"][1]


def slow(change: Callable[[Path], None], told: str, name: str) -> Any:
    """Each is a process of its own, most work humming's own choice out."""
    return pytest.param(change, told, id=name, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(edit(swapped), "", id="stages swapped"),
        slow(edit(by_tokens), "", "tokens for rows"),
        slow(edit(lambda file: file.update(humming="0.1.18")), "with humming-kernels 0.1.18", "version"),
        slow(unset, "does not set AUTOTUNE_HUMMING_CONFIG", "unset"),
        slow(edit(lambda file: file.update(gpu="NVIDIA H200")), "tuned on NVIDIA H200", "gpu"),
        slow(
            edit(lambda file: file["compute"].update(gemm_type="grouped_contiguous")),
            "is not for a layer",
            "gemm type",
        ),
        slow(edit(gap), "leave a gap", "gap"),
    ],
)
def test_a_bundle_that_vllm_would_not_use_as_meant_fails(
    verify: Verify, change: Callable[[Path], None], told: str
) -> None:
    verification = verify(change)
    assert not verification.ok
    assert told in " ".join([*verification.reasons, *verification.notes])
