"""AITER's own lookup of a fused-MoE row, run on a bundle."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autotune.backends.aiter_main.csv import DECODE_VARIABLE, VARIABLE
from autotune.backends.aiter_main.lookup import CORE, FUSED_MOE, ROW
from autotune.engines.source import EngineSource, open_source
from autotune.errors import UserError
from autotune.processes.lookup import run_lookup
from autotune.protocol.bundle import Bundle
from autotune.protocol.form import ANY, COUNT, TOKENS, Form
from autotune.protocol.lookup import Check, Serving, Verification, Verifier

_NEEDED = (FUSED_MOE, CORE, "aiter/configs")

_FORM: Final[Form] = {
    "key": {
        **dict.fromkeys(("gfx", "q_dtype_a", "q_type", "act_type", "dtype"), str),
        **dict.fromkeys(("cu_num", "model_dim", "inter_dim", "experts", "top_k"), COUNT),
        **dict.fromkeys(("use_g1u1", "doweight_stage1"), bool),
        "q_dtypes_w": [str],
    },
    "regime?": "decode",
    # Older bundles do not say what is taken besides the kernels.
    "intended": {TOKENS: {"kernelName1": str, "kernelName2": str, **{f"{name}?": int for name in ROW}}},
    **ANY,
}


class AiterVerifier(Verifier):
    """See `protocol.lookup.Verifier`."""

    sources = 1
    form = _FORM

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        return verify_aiter(bundle, open_source("aiter", serving.source))


def verify_aiter(bundle: Bundle, source: EngineSource) -> Verification:
    """Runs AITER's merge and lookup with the bundle's environment, for each name that an engine may ask by.

    Raises:
        UserError: the bundle has no rows, or the source lacks what is run.
    """
    lookup = bundle.lookup("aiter")
    intended: Mapping[str, Mapping[str, Any]] = lookup["intended"]
    variable = DECODE_VARIABLE if lookup.get("regime") == "decode" else VARIABLE
    value = bundle.variables.get(variable)
    if value is None:
        reason = f"variable: autotune.env does not set {variable}, so AITER reads its shipped tables only"
        return Verification("aiter", (), (reason, *bundle.changed()))
    with tempfile.TemporaryDirectory(prefix="autotune-verify-") as scratch_name:
        scratch = Path(scratch_name)
        root = source.unpack(scratch / "source", *_NEEDED)
        tables, missing = _copies(bundle, value, root, scratch / "tables")
        text = (root / FUSED_MOE).read_text(encoding="utf-8")
        if variable == DECODE_VARIABLE and "def set_moe_regime(" not in text:
            reason = (
                f"version: this AITER has no table for decode, so nobody reads {variable}: export again with"
                " --aiter-source of the AITER that serves"
            )
            return Verification(f"aiter at {source.root}", (), (reason, *bundle.changed()))
        answer = _ask(bundle, lookup, root, scratch, {variable: tables}, sorted(map(int, intended)))
        checks, reasons = [], [f"folder: {path} of {variable} does not exist" for path in missing]
        if answer["error"] is None:
            for q_dtype_w in lookup["key"]["q_dtypes_w"]:
                selected = {m: chosen[q_dtype_w] for m, chosen in answer["selected"].items()}
                compared, why = _compare(intended, selected, q_dtype_w, bundle.variables, root)
                checks += compared
                reasons += why
        else:
            reasons.append(f"merge: aiter raises {answer['error'].splitlines()[0]}{_hint(answer['error'])}")
    reasons += bundle.changed()
    notes: tuple[str, ...] = ()
    if variable == DECODE_VARIABLE:
        notes = ("it was told that the server decodes: set_moe_regime('decode'), which the server must call",)
    return Verification(f"aiter at {source.root}", tuple(checks), tuple(dict.fromkeys(reasons)), notes)


def _copies(bundle: Bundle, value: str, root: Path, into: Path) -> tuple[list[Path], list[str]]:
    """The tables of the list as copies, as a merge may rewrite them, and those that do not exist."""
    into.mkdir(parents=True)
    copies, missing = [], []
    serving = str(bundle.manifest.get("serving_folder") or "")
    for index, entry in enumerate(value.split(os.pathsep)):
        path = Path(entry)
        if serving and entry.startswith(f"{serving}/"):
            path = bundle.folder / entry[len(serving) + 1 :]
        elif not path.exists() and "aiter/configs/" in entry:
            # The serving machine's installation; this one's stands for it.
            path = root / "aiter/configs" / entry.rpartition("aiter/configs/")[2]
        if not path.is_file():
            missing.append(entry)
            continue
        copy = into / f"{index}-{path.name}"
        shutil.copy(path, copy)
        copies.append(copy)
    return copies, missing


def _ask(
    bundle: Bundle,
    lookup: Mapping[str, Any],
    root: Path,
    scratch: Path,
    tables: Mapping[str, Sequence[Path]],
    tokens: Sequence[int],
) -> dict[str, Any]:
    lists = {variable: os.pathsep.join(map(str, paths)) for variable, paths in tables.items()}
    environment = {**bundle.variables, **lists}
    request = {
        "engine": "aiter",
        "lookup": "autotune.backends.aiter_main.lookup:aiter_lookup",
        "root": str(root),
        "scratch": str(scratch / "merged"),
        "key": lookup["key"],
        "regime": lookup.get("regime"),
        "tokens": list(tokens),
    }
    answer = run_lookup(request, environment)
    if answer["error"] is not None and "No module named 'pandas'" in answer["error"]:
        raise UserError(
            "AITER's lookup reads its tables with pandas, which is missing here: pip install pandas"
        )
    return answer


def _compare(
    intended: Mapping[str, Mapping[str, Any]],
    selected: Mapping[str, Mapping[str, Any]],
    q_dtype_w: str,
    variables: Mapping[str, str],
    root: Path,
) -> tuple[list[Check], list[str]]:
    checks: list[Check] = []
    reasons: list[str] = []
    for m in sorted(intended, key=int):
        wanted, row = intended[m], selected[m]
        other = [name for name in ROW if name in wanted and row.get(name) != wanted[name]]
        ok = not other and all(row[name] == wanted[name] for name in ("kernelName1", "kernelName2"))
        kernels = _text(row, other) if row["kernelName1"] or row["kernelName2"] else "AITER's heuristic"
        text = f"row {row['bucket']}: {kernels}"
        subject = f"weights {q_dtype_w} at M = {m}"
        checks.append(Check(subject, text, ok, "" if ok else _text(wanted, other)))
        if ok or reasons:
            continue
        if row["kernelName1"] or row["kernelName2"]:
            reasons.append(
                f"bucket: {subject} takes row {row['bucket']} ({kernels}), meant was {_text(wanted, other)}"
            )
        elif _dsl_enforced(variables, root):
            reasons.append(
                "version: this AITER reads no table unless AITER_ENFORCE_DSL=0, and its default is 1: export"
                " environment variables for it instead"
            )
        else:
            reasons.append(
                f"key: no row matches {subject}: gfx, CU count, sizes, act_type, dtypes or q_type of the row"
                " is not what AITER asks by"
            )
    return checks, reasons


def _text(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    values = "".join(f" {name}={row.get(name)}" for name in columns)
    return f"{row['kernelName1']} + {row['kernelName2']}{values}"


def _dsl_enforced(variables: Mapping[str, str], root: Path) -> bool:
    return (
        variables.get("AITER_ENFORCE_DSL", "1") != "0"
        and "AITER_ENFORCE_DSL" in (root / FUSED_MOE).read_text()
    )


def _hint(error: str) -> str:
    if "duplicate shape entries" in error:
        return (
            ": a key stands in two tables of the list, and the installed one would have been rewritten;"
            " export again with --aiter-source, which leaves such rows out"
        )
    if "Column mismatch" in error:
        return ": the tables of the list have unlike columns; export with --aiter-source of the serving AITER"
    return ""
