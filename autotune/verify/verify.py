"""A bundle against every engine that it is for. Backends bring the lookups: `protocol.lookup.Verifier`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from autotune.errors import UserError
from autotune.kernels.tuned import Gpu
from autotune.machine.probe import gpu_here
from autotune.problem.layer import Layer
from autotune.problem.models import FUSED_SHARED, Model, family_of, known_needs
from autotune.protocol.bundle import Bundle
from autotune.protocol.legality import require_computed
from autotune.protocol.lookup import Serving, Verification, Verifier
from autotune.protocol.registry import backend_names, instance, load_backend, registration


def verify_bundle(
    folder: Path,
    *,
    engine: str | None,
    sources: Sequence[Path],
    device_name: str | None = None,
    triton_version: str | None = None,
    model: Model | None = None,
) -> list[Verification]:
    """Runs the lookups.

    Args:
        model: that is served; None: the one that the bundle names.
        engine: one that a backend brings a verifier for; None: each that the bundle is for.
        sources: wheels or source trees; empty: what is installed.
        device_name: the serving GPU's name; None: the GPU here, else what the bundle was exported for.
        triton_version: of the serving stack; None: what the bundle was exported for, or of this machine
            where it is its installed engine and GPU that are asked.

    Raises:
        UserError: the folder is no bundle, the engine is unknown or not there, the bundle is not for it, or
            no engine that is asked looks at what is given.
    """
    bundle = Bundle.read(folder)
    verifiers = _verifiers(bundle, engine)
    _refuse_what_no_engine_looks_at(verifiers, sources, triton_version)
    layer, family, reason = served_layer(bundle, model)
    serving = Serving(sources, device_name, triton_version, layer, family)
    first = (reason,) if reason else ()
    estimated = not bundle.manifest.get("measured", True)
    for name, verifier in verifiers.items():
        if verifier.form is not None:
            bundle.require(name, verifier.form)
    verifications = []
    for verifier in verifiers.values():
        verification = verifier.verify(bundle, serving)
        if not verifier.judges_gpu:
            verification = _of_gpu(verification, bundle, device_name)
        verifications.append(
            replace(verification, estimated=estimated, reasons=(*first, *verification.reasons))
        )
    return verifications


def _verifiers(bundle: Bundle, engine: str | None) -> dict[str, Verifier]:
    """By engine the verifier that the bundle's own backend brings, else the first that another one brings.

    Raises:
        UserError: there is none for an engine, or the bundle is for no engine.
    """
    backend, lookups = bundle.manifest.get("backend"), bundle.manifest.get("lookups", {})
    known: dict[str, tuple[str, str]] = {}
    names = [backend] if isinstance(backend, str) else []
    for name in dict.fromkeys([*names, *backend_names()]):
        with suppress(UserError):  # it is not here or broken: the others' verifiers may do
            for engine_name, path in registration(name).verifiers.items():
                known.setdefault(engine_name, (name, path))
    engines = [engine] if engine is not None else list(lookups)
    if not engines:
        raise UserError(f"{bundle.folder} says nothing of what an engine must find: export it again")
    for each in engines:
        if each in known:
            continue
        if each not in lookups:
            raise UserError(f"unknown engine {each!r}: use one of {', '.join(known)}")
        raise UserError(
            f"{bundle.folder} is for {each}, for which no backend here brings a verifier: install the package"
            f" that registers one, which should be that of backend {backend}"
        )
    return {each: instance(*known[each], Verifier) for each in engines}


def _refuse_what_no_engine_looks_at(
    verifiers: Mapping[str, Verifier], sources: Sequence[Path], triton_version: str | None
) -> None:
    asked = " and ".join(verifiers)
    most = max(verifier.sources for verifier in verifiers.values())
    if sources and not most:
        raise UserError(f"--engine-source has no effect for {asked}, whose lookup needs none: leave it out")
    if len(sources) > most:
        raise UserError(
            f"--engine-source names {len(sources)} sources, and {asked} looks at {most}: give no more"
        )
    if triton_version is not None and not any(verifier.asks_triton for verifier in verifiers.values()):
        raise UserError(
            f"--triton-version {triton_version} has no effect for {asked}, whose lookup does not ask for it:"
            " leave it out"
        )


def served_layer(bundle: Bundle, model: Model | None) -> tuple[Layer | None, str, str]:
    """A bundle's layer as the model that is served has it, with its needs, and that model's family.

    Args:
        model: as told; None: it is known by the bundle's name for it.

    Returns:
        The layer, None where the manifest has none; the family, `model_type` of the model; and a sentence
        on why the bundle's kernels are not the model's, "" where they are.

    Raises:
        UserError: the model cannot be split as the bundle's layer is.
    """
    raw, name = bundle.manifest.get("layer"), bundle.manifest.get("backend")
    if not isinstance(raw, dict) or not isinstance(name, str):
        return None, "", ""
    dims = ("model", "model_dim", "inter_dim", "experts", "top_k", "tp")
    kept = Layer(**{key: raw[key] for key in dims}, ep=raw.get("ep", 1))
    layer, family = kept, family_of(kept.model)
    if model is not None:
        shared = kept.model.endswith(FUSED_SHARED) and model.shared_experts > 0
        described = model.with_fused_shared_experts() if shared else model
        layer, family = Layer.of(described, kept.tp, kept.ep), "" if shared else model.family
        if replace(layer, model=kept.model) != kept:
            return layer, family, f"model: it is {layer.key}, and the bundle was tuned for {kept.key}"
    else:
        needs = known_needs(kept.model)
        if needs is not None and bundle.manifest.get("requantised"):
            needs = replace(needs, scheme=None)
        layer = replace(kept, needs=needs)
    try:
        require_computed(load_backend(name), name, layer)
    except UserError as error:
        return layer, family, f"model: {error}"
    return layer, family, ""


def _of_gpu(verification: Verification, bundle: Bundle, device_name: str | None) -> Verification:
    """The verification, failed where the serving GPU is not the one that the bundle is for.

    Args:
        device_name: the serving GPU's name; None: it is the GPU here, if there is one.
    """
    reasons, unchecked = [], []
    device = gpu_here() if device_name is None else None
    here = Gpu(device.name, device.compute_units) if device else None
    for environment in bundle.manifest.get("environments", {}).values():
        meant = Gpu(environment["device"], environment["compute_units"])
        # Of a GPU that was only named the compute units are not known.
        serving = here if device_name is None else replace(meant, name=device_name.replace("_", " "))
        if serving is None:
            unchecked.append(str(meant))
        elif not meant.is_same(serving):
            reasons.append(f"gpu: it is for {meant}, and the serving GPU is {serving}: tune on that one")
    return replace(
        verification,
        reasons=(*reasons, *verification.reasons),
        unchecked_gpu=" and ".join(unchecked),
    )
