"""`autotune verify`: an engine's own lookup, run on a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import Json, ModelConfig, Quiet
from autotune.cli.output import print_json


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder that autotune export wrote.")],
    engine: Annotated[
        str | None,
        typer.Option(
            help="sglang, vllm, aiter, triton, env, or another that an installed backend verifies;"
            " default: each that the bundle is for."
        ),
    ] = None,
    engine_source: Annotated[
        list[Path] | None,
        typer.Option(
            help="A wheel, or a source tree, whose lookup is run; default: the installed engine. For env"
            " several: AITER's and FlyDSL's."
        ),
    ] = None,
    device_name: Annotated[
        str | None,
        typer.Option(
            help="Name of the serving GPU as the engine writes it (vLLM on ROCm: or its PCI id, 0x74a5);"
            " default: the GPU here, else what the bundle was exported for."
        ),
    ] = None,
    triton_version: Annotated[
        str | None,
        typer.Option(
            help="Version of the serving stack's Triton, which SGLang looks for; default: this machine's"
            " where its installed engine and its GPU are asked, else what the bundle was exported for."
        ),
    ] = None,
    model_config: ModelConfig = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show which entry an engine selects at each shape, and fail where it is not the one intended.

    The engine's own code is run, without a GPU, and without the rest of the engine. Exit code 1: it would not
    use the bundle as meant; the reason is printed.

    Examples:

      autotune verify deploy

      autotune verify deploy --engine sglang --engine-source sglang-0.5.23-*.whl --triton-version 3.6.0

      autotune verify deploy --model-config config.json

      autotune verify deploy --engine env --engine-source ~/aiter --engine-source ~/FlyDSL
    """
    from dataclasses import asdict

    from autotune.problem.models import from_hf_config
    from autotune.verify.verify import verify_bundle

    verifications = verify_bundle(
        bundle,
        engine=engine,
        sources=engine_source or [],
        device_name=device_name,
        triton_version=triton_version,
        model=from_hf_config(model_config) if model_config else None,
    )
    if as_json:
        print_json([{**asdict(verification), "ok": verification.ok} for verification in verifications])
    else:
        for verification in verifications:
            if quiet and verification.ok:
                continue
            typer.echo(verification.engine)
            for check in verification.checks:
                if quiet and check.ok:
                    continue
                mark = "ok  " if check.ok else "FAIL"
                meant = "" if check.ok else f"  (meant: {check.expected})"
                typer.echo(f"  {mark} {check.subject}: {check.found}{meant}")
            for note in verification.notes:
                typer.echo(f"  the engine says: {note}")
            for reason in verification.reasons:
                typer.echo(f"  {reason}")
            typer.echo(f"  {verification.verdict}")
    if not all(verification.ok for verification in verifications):
        raise typer.Exit(1)
