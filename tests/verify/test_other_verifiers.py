"""What is told of our operator's, AITER main's and humming's bundles, over lookups that answer at once."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.backends.aiter_main import verify as aiter_verify
from autotune.backends.aiter_main.lookup import CORE, FUSED_MOE
from autotune.backends.aiter_main.verify import AiterVerifier, verify_aiter
from autotune.backends.humming import verify as humming_verify
from autotune.backends.humming.lookup import FILES
from autotune.backends.humming.verify import HummingVerifier
from autotune.backends.triton.verify import OperatorVerifier, TritonDoctor
from autotune.engines.source import EngineSource
from autotune.errors import UserError
from autotune.kernels.config import Stage1Config, Stage2Config
from autotune.protocol.bundle import Bundle
from autotune.protocol.lookup import Check, Serving, Verification

# Our own operator's.

VARIABLE = "AUTOTUNE_MOE_CONFIG"
ONE, TWO = vars(Stage1Config(16, 64, 512, 4, 3)), vars(Stage2Config(16, 64, 256, 4, 2))
SERVING = Serving()


def operator_bundle(folder: Path, **intended: Any) -> Bundle:
    file = {
        "format": "autotune-moe-w4a8",
        "version": 1,
        "model_dim": 7168,
        "inter_dim": 256,
        "experts": 384,
        "top_k": 8,
        "gpu": {"name": "AMD Instinct MI325X", "compute_units": 304},
        "entries": [{"tokens": tokens, "stage1": ONE, "stage2": TWO} for tokens in (2, 10)],
    }
    (folder / "moe_w4a8.json").write_text(json.dumps(file))
    lookups = {
        "triton": {"intended": intended or {"10": {"stage1": ONE, "stage2": TWO}, "2": {"stage1": ONE}}}
    }
    manifest = {"lookups": lookups, "files": {"gone": {"sha256": ""}, "moe_w4a8.json": {"sha256": "other"}}}
    return Bundle(folder, {**manifest, "serving_folder": "/opt/b"}, {VARIABLE: "/opt/b/moe_w4a8.json"})


CHANGED = ("gone is missing from the bundle", "moe_w4a8.json was changed since the export")


def test_every_tuned_count_is_looked_up_in_order_with_what_it_takes(tmp_path: Path) -> None:
    told = OperatorVerifier().verify(operator_bundle(tmp_path), SERVING)
    assert told.engine == f"triton at {tmp_path.resolve()}/moe_w4a8.json"
    assert [(check.subject, check.ok, check.expected) for check in told.checks] == [
        ("stage1 at 2 tokens", True, ""),
        ("stage1 at 10 tokens", True, ""),
        ("stage2 at 10 tokens", True, ""),
    ]
    assert told.checks[0].found.startswith("tile_m=16 tile_n=64 tile_k=512 split_k=4 ")
    assert told.reasons == CHANGED


def test_a_count_that_takes_another_config_is_a_reason_and_what_was_changed_too(tmp_path: Path) -> None:
    meant = {"tile_m": 16, "tile_n": 128, "unknown": 1}
    told = OperatorVerifier().verify(operator_bundle(tmp_path, **{"10": {"stage1": meant}}), SERVING)
    (check,) = told.checks
    assert (check.ok, check.expected) == (False, "tile_m=16 tile_n=128 unknown=1")
    assert check.found.startswith("tile_m=16 tile_n=64 unknown=")
    assert told.reasons == (
        f"bucket: stage1 at 10 tokens gets {check.found}, meant was {check.expected}",
        *CHANGED,
    )


def test_without_the_variable_the_operator_runs_with_its_defaults(tmp_path: Path) -> None:
    bundle = operator_bundle(tmp_path)
    told = OperatorVerifier().verify(Bundle(tmp_path, bundle.manifest, {}), SERVING)
    reason = f"variable: autotune.env does not set {VARIABLE}, so the operator runs with its defaults"
    assert told == Verification("triton", (), (reason, *CHANGED))


def test_a_file_that_the_operator_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    bundle = operator_bundle(tmp_path)
    OperatorVerifier().verify(bundle, SERVING)  # what was read before is not what is there now
    (tmp_path / "moe_w4a8.json").write_text("{")
    told = OperatorVerifier().verify(bundle, SERVING)
    assert (told.engine, told.checks, told.reasons[1:]) == ("triton", (), CHANGED)
    assert told.reasons[0].startswith(f"file: {tmp_path.resolve()}/moe_w4a8.json")


def test_our_kernels_need_triton() -> None:
    machine = SimpleNamespace(able_with_triton=lambda: "able")
    assert TritonDoctor().ability(machine) == "able"  # type: ignore[arg-type,comparison-overlap]
    assert (OperatorVerifier.sources, OperatorVerifier.asks_triton, OperatorVerifier.judges_gpu) == (
        0,
        False,
        False,
    )


# AITER main's.

KEY = {"q_dtypes_w": ["torch.uint32", "torch.int4"]}


def row(number: Any, bucket: int = 4) -> dict[str, Any]:
    return {
        "kernelName1": number and f"one{number}",
        "kernelName2": number and f"two{number}",
        "bucket": bucket,
    }


@pytest.mark.parametrize(("column", "taken"), [("block_m", 64), ("ksplit", 2), ("run_1stage", 1)])
def test_a_row_with_the_kernels_meant_but_another_value_is_told(
    column: str, taken: int, tmp_path: Path
) -> None:
    rest = {"block_m": 32, "ksplit": 0, "run_1stage": 0}
    selected = {"4": {**row(1), **rest, column: taken}}
    ((check,), (reason,)) = aiter_verify._compare({"4": {**row(1), **rest}}, selected, "int4", {}, tmp_path)
    assert (check.ok, check.found) == (False, f"row 4: one1 + two1 {column}={taken}")
    assert reason.endswith(f"meant was one1 + two1 {column}={rest[column]}")
    same = {"4": {**row(1), **rest}}
    assert aiter_verify._compare(same, same, "int4", {}, tmp_path)[0][0].ok


class Aiter:
    """A tree with a bundle beside it, and a lookup that answers as told."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.folder = root / "src", root / "bundle"
        self.requests: list[tuple[dict[str, Any], Mapping[str, str]]] = []
        self.copied: dict[str, str] = {}
        same = {"torch.uint32": row(1), "torch.int4": row(1)}
        self.answer: dict[str, Any] = {"error": None, "selected": {"1": same, "10": same}}
        for name, code in {
            FUSED_MOE: "def set_moe_regime(x): ...",
            CORE: "",
            "aiter/configs/a.csv": "shipped",
        }.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        (self.folder / "aiter").mkdir(parents=True)
        (self.folder / "aiter/ours.csv").write_text("ours")
        monkeypatch.setattr(aiter_verify, "run_lookup", self._run)

    def _run(self, request: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        self.requests.append((dict(request), dict(environment)))
        for value in environment.values():
            self.copied |= {
                path: Path(path).read_text() for path in value.split(os.pathsep) if Path(path).is_file()
            }
        return self.answer

    def verify(self, *tables: str, regime: str | None = None, **variables: str) -> Verification:
        variable = "AITER_CONFIG_FMOE_DECODE" if regime else "AITER_CONFIG_FMOE"
        wanted = {name: row(1)[name] for name in ("kernelName1", "kernelName2")}
        lookup = {
            "key": KEY,
            "intended": {"10": wanted, "1": wanted},
            **({"regime": regime} if regime else {}),
        }
        manifest = {
            "lookups": {"aiter": lookup},
            "serving_folder": "/opt/b",
            "files": {"gone": {"sha256": ""}},
        }
        listed = {variable: os.pathsep.join(tables)} if tables else {}
        bundle = Bundle(self.folder, manifest, {**listed, **variables})
        return verify_aiter(bundle, EngineSource("aiter", self.root))

    @property
    def left(self) -> list[str]:
        """What is changed since the export, which every verification ends with."""
        return ["gone is missing from the bundle", "aiter/ours.csv is not part of the export"]


@pytest.fixture
def aiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aiter:
    return Aiter(tmp_path, monkeypatch)


OURS = "/opt/b/aiter/ours.csv"


def test_aiter_is_asked_with_copies_of_the_tables_for_each_name_of_the_weights(aiter: Aiter) -> None:
    told = aiter.verify(OURS, "/app/aiter/aiter/configs/a.csv", OTHER="1")
    ((request, environment),) = aiter.requests
    scratch = Path(request["scratch"]).parent
    assert request == {
        "engine": "aiter",
        "lookup": "autotune.backends.aiter_main.lookup:aiter_lookup",
        "root": str(aiter.root),
        "scratch": str(scratch / "merged"),
        "key": KEY,
        "regime": None,
        "tokens": [1, 10],
    }
    copies = [str(scratch / "tables/0-ours.csv"), str(scratch / "tables/1-a.csv")]
    assert environment == {"AITER_CONFIG_FMOE": os.pathsep.join(copies), "OTHER": "1"}
    assert aiter.copied == dict(zip(copies, ("ours", "shipped"), strict=True))
    assert not scratch.exists()
    assert told.engine == f"aiter at {aiter.root}"
    assert told.checks == tuple(
        Check(f"weights {dtype} at M = {m}", "row 4: one1 + two1", True, "")
        for dtype in ("torch.uint32", "torch.int4")
        for m in (1, 10)
    )
    assert (list(told.reasons), told.notes) == (aiter.left, ())


def test_of_a_wheel_what_is_run_is_unpacked_beside_the_copies(
    aiter: Aiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(EngineSource, "unpack", lambda self, *of: unpacked.append(of) or self.root)
    aiter.verify(OURS)
    ((into, *names),) = unpacked
    assert names == [FUSED_MOE, CORE, "aiter/configs"]
    assert into == Path(aiter.requests[0][0]["scratch"]).parent / "source"
    assert Path(aiter.requests[0][0]["scratch"]).parent.name.startswith("autotune-verify-")


def test_a_table_that_is_nowhere_is_told(aiter: Aiter, tmp_path: Path) -> None:
    lasting = tmp_path / "aiter/configs/elsewhere.csv"  # a place like AITER's own, but it is there
    lasting.parent.mkdir(parents=True)
    lasting.write_text("elsewhere")
    told = aiter.verify("/opt/b/none.csv", "/opt/bb/x.csv", "/app/aiter/configs/none.csv", str(lasting), OURS)
    gone = ("/opt/b/none.csv", "/opt/bb/x.csv", "/app/aiter/configs/none.csv")
    assert list(told.reasons) == [
        *(f"folder: {name} of AITER_CONFIG_FMOE does not exist" for name in gone),
        *aiter.left,
    ]
    assert list(aiter.copied.values()) == ["elsewhere", "ours"]


def test_without_the_variable_aiter_reads_its_shipped_tables(aiter: Aiter) -> None:
    reason = "variable: autotune.env does not set AITER_CONFIG_FMOE, so AITER reads its shipped tables only"
    assert aiter.verify() == Verification("aiter", (), (reason, *aiter.left))
    assert aiter.requests == []


def test_a_table_for_decode_needs_an_aiter_that_has_one_and_a_server_that_says_so(aiter: Aiter) -> None:
    told = aiter.verify(OURS, regime="decode")
    assert aiter.requests[0][0]["regime"] == "decode"
    assert list(aiter.requests[0][1]) == ["AITER_CONFIG_FMOE_DECODE"]
    assert told.notes == (
        "it was told that the server decodes: set_moe_regime('decode'), which the server must call",
    )
    (aiter.root / FUSED_MOE).write_text("no such function")
    told = aiter.verify(OURS, regime="decode")
    reason = (
        "version: this AITER has no table for decode, so nobody reads AITER_CONFIG_FMOE_DECODE: export again"
        " with --aiter-source of the AITER that serves"
    )
    assert told == Verification(f"aiter at {aiter.root}", (), (reason, *aiter.left))
    assert len(aiter.requests) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "RuntimeError: duplicate shape entries\nmore",
            "RuntimeError: duplicate shape entries: a key stands in two tables of the list, and the installed"
            " one would have been rewritten; export again with --aiter-source, which leaves such rows out",
        ),
        (
            "AssertionError: Column mismatch",
            "AssertionError: Column mismatch: the tables of the list have unlike columns; export with"
            " --aiter-source of the serving AITER",
        ),
        ("KeyError: 'x'", "KeyError: 'x'"),
    ],
)
def test_what_aiters_merge_raises_is_told_by_its_first_line_with_what_to_do(
    error: str, told: str, aiter: Aiter
) -> None:
    aiter.answer = {"error": error}
    verification = aiter.verify(OURS)
    assert (list(verification.reasons), verification.checks) == (
        [f"merge: aiter raises {told}", *aiter.left],
        (),
    )


def test_without_pandas_it_is_said_how_to_get_it(aiter: Aiter) -> None:
    aiter.answer = {"error": "ModuleNotFoundError: No module named 'pandas'"}
    with pytest.raises(UserError) as told:
        aiter.verify(OURS)
    assert str(told.value) == (
        "AITER's lookup reads its tables with pandas, which is missing here: pip install pandas"
    )


def select(aiter: Aiter, m1: dict[str, Any], m10: dict[str, Any]) -> None:
    aiter.answer["selected"] = {
        m: {"torch.uint32": r, "torch.int4": row(1)} for m, r in (("1", m1), ("10", m10))
    }


def test_another_buckets_row_is_told_once_a_name_of_the_weights(aiter: Aiter) -> None:
    select(aiter, row(2, 8), row(3, 16))
    told = aiter.verify(OURS)
    assert told.checks[:2] == (
        Check("weights torch.uint32 at M = 1", "row 8: one2 + two2", False, "one1 + two1"),
        Check("weights torch.uint32 at M = 10", "row 16: one3 + two3", False, "one1 + two1"),
    )
    assert [check.ok for check in told.checks[2:]] == [True, True]
    assert told.reasons[0] == (
        "bucket: weights torch.uint32 at M = 1 takes row 8 (one2 + two2), meant was one1 + two1"
    )
    assert list(told.reasons[1:]) == aiter.left
    for name in ("kernelName1", "kernelName2"):  # one kernel of the two is enough to differ
        select(aiter, {**row(1), name: "other"}, row(1))
        assert aiter.verify(OURS).reasons[0].startswith("bucket: weights torch.uint32 at M = 1 takes row 4")


def test_a_row_that_nothing_asks_for_is_told_by_its_key(aiter: Aiter) -> None:
    select(aiter, row(1), row(""))
    told = aiter.verify(OURS)
    assert told.checks[1].found == "row 4: AITER's heuristic"
    assert told.reasons[0] == (
        "key: no row matches weights torch.uint32 at M = 10: gfx, CU count, sizes, act_type, dtypes or q_type"
        " of the row is not what AITER asks by"
    )


def test_an_aiter_whose_default_reads_no_table_is_told_as_such(aiter: Aiter) -> None:
    select(aiter, row(1), row(""))
    (aiter.root / FUSED_MOE).write_text('os.getenv("AITER_ENFORCE_DSL", "1")')
    version = (
        "version: this AITER reads no table unless AITER_ENFORCE_DSL=0, and its default is 1: export"
        " environment variables for it instead"
    )
    assert aiter.verify(OURS).reasons[0] == version
    assert aiter.verify(OURS, AITER_ENFORCE_DSL="1").reasons[0] == version
    assert aiter.verify(OURS, AITER_ENFORCE_DSL="0").reasons[0].startswith("key: ")


def test_aiters_verifier_opens_the_one_source_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiter_verify, "open_source", lambda *of: of)
    monkeypatch.setattr(aiter_verify, "verify_aiter", lambda *of: of)
    bundle = Bundle(Path("/b"), {}, {})
    assert AiterVerifier().verify(bundle, Serving([Path("/src")])) == (bundle, ("aiter", Path("/src")))  # type: ignore[comparison-overlap]
    assert AiterVerifier.sources == 1


# humming's.


def humming_entry(stages: int) -> dict[str, Any]:
    return {"block_shape": [16, 64, 128], "warp_shape": [16, 32, 64], "mma_type": "mma", "num_stages": stages}


def shown(stages: int) -> str:
    return f"mma 16x64x128 warp 16x32x64 num_stages={stages}"


MEANT = {"10": {"stage1": humming_entry(4), "stage2": humming_entry(2)}, "2": {"stage1": humming_entry(3)}}
LAYERS = {"w13": {"shape_n": 512}, "w2": {"shape_n": 7168}}


class Humming:
    """A bundle of humming's, and vLLM's code that hands out entries as told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[tuple[Any, ...]] = []
        self.unpacked: list[tuple[Path, tuple[str, ...]]] = []
        self.answer: dict[str, Any] = {"selected": MEANT, "error": None, "messages": []}
        self.variables = {"AUTOTUNE_HUMMING_CONFIG": "/opt/b/humming.json"}
        file = {"layers": [{"sublayer": name, "layer": layer} for name, layer in LAYERS.items()]}
        (folder / "humming.json").write_text(json.dumps(file))
        library = SimpleNamespace(load=lambda: self.asked.append(("load",)), version=lambda: "0.1.19")
        monkeypatch.setattr(humming_verify, "library", library)
        monkeypatch.setattr(humming_verify, "open_source", self._open)
        monkeypatch.setattr(humming_verify, "run_lookup", self._run)

    def _open(self, *of: Any) -> Any:
        self.asked.append(("open", *of))

        def unpack(into: Path, *names: str) -> Path:
            assert into.is_dir()
            self.unpacked.append((into, names))
            return into

        return SimpleNamespace(root=Path("/src"), unpack=unpack)

    def _run(self, request: Any, environment: Any, *, without: Any) -> Any:
        self.asked.append(("run", dict(request), dict(environment), list(without)))
        return self.answer

    def verify(self) -> Verification:
        lookup = {"file": "humming.json", "backend": "humming_w4a8", "intended": MEANT}
        manifest = {
            "lookups": {"vllm": lookup},
            "serving_folder": "/opt/b",
            "files": {"gone": {"sha256": ""}},
        }
        return HummingVerifier().verify(
            Bundle(self.folder, manifest, self.variables), Serving([Path("/src")])
        )


LEFT = ("gone is missing from the bundle", "humming.json is not part of the export")


@pytest.fixture
def humming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Humming:
    return Humming(tmp_path, monkeypatch)


def test_vllm_is_asked_for_each_layer_at_each_count_with_the_plugins_variable(humming: Humming) -> None:
    told = humming.verify()
    ((scratch, names),) = humming.unpacked
    assert names == tuple(FILES.values())
    assert scratch.name.startswith("autotune-verify-")
    assert not scratch.exists()
    request = {
        "file": "humming.json",
        "backend": "humming_w4a8",
        "intended": MEANT,
        "engine": "vllm",
        "lookup": "autotune.backends.humming.lookup:humming_lookup",
        "layers": LAYERS,
        "tokens": [2, 10],
        "root": str(scratch),
    }
    environment = {"AUTOTUNE_HUMMING_CONFIG": f"{humming.folder.resolve()}/humming.json"}
    assert humming.asked == [
        ("load",),
        ("open", "vllm", Path("/src")),
        ("run", request, environment, ["AUTOTUNE_HUMMING_CONFIG"]),
    ]
    assert HummingVerifier.sources == 1
    assert told == Verification(
        "vllm at /src with the plugin autotune, humming-kernels 0.1.19",
        (
            Check("stage1 at M = 2", shown(3), True, ""),
            Check("stage1 at M = 10", shown(4), True, ""),
            Check("stage2 at M = 10", shown(2), True, ""),
        ),
        LEFT,
        (),
    )


def test_what_the_plugin_says_is_told_and_what_others_log_is_not(humming: Humming) -> None:
    humming.answer["messages"] = ["autotune: takes 3 ranges", "vllm: hello", "not autotune: x"]
    assert humming.verify().notes == ("autotune: takes 3 ranges",)


def test_an_entry_that_is_not_the_one_meant_fails_with_both(humming: Humming) -> None:
    selected = {"2": {"stage1": humming_entry(9)}, "10": {"stage2": {"num_stages": 2}}}
    humming.answer["selected"] = selected
    assert humming.verify().checks == (
        Check("stage1 at M = 2", shown(9), False, shown(3)),
        Check("stage1 at M = 10", "nothing", False, shown(4)),
        Check("stage2 at M = 10", "nothing", False, shown(2)),
    )
    humming.answer["selected"] = {}
    assert [check.found for check in humming.verify().checks] == ["nothing"] * 3


def test_what_vllm_raises_and_a_variable_that_is_not_set_are_reasons(humming: Humming) -> None:
    humming.variables = {}
    humming.answer["error"] = "ImportError: x"
    told = humming.verify()
    assert humming.asked[-1][2] == {}
    assert told.reasons == (
        "vLLM's code raised ImportError: x: give vLLM 0.33 with --engine-source",
        f"{humming.folder}/autotune.env does not set AUTOTUNE_HUMMING_CONFIG: the plugin does nothing",
        *LEFT,
    )


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda path: path.unlink(), "FileNotFoundError"),
        (lambda path: path.write_text("{"), "JSONDecodeError"),
        (lambda path: path.write_text("{}"), "KeyError"),
        (lambda path: path.write_text("[]"), "TypeError"),
    ],
)
def test_a_file_that_is_no_bundles_is_one_sentence(
    spoil: Callable[[Path], Any], kind: str, humming: Humming
) -> None:
    path = humming.folder / "humming.json"
    spoil(path)
    with pytest.raises(UserError) as told:
        humming.verify()
    assert str(told.value).startswith(f"{path} cannot be read ({kind}: ")
    assert str(told.value).endswith("): export it again")
