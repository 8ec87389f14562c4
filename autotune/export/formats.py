"""Which format a backend's winners are written in."""

from collections.abc import Mapping, Sequence

from autotune.backends.aiter_main.table import writes_table
from autotune.backends.env_knobs import DeployedByEnvironment
from autotune.backends.sglang.export import sglang_content
from autotune.backends.triton.export import operator_content
from autotune.backends.vllm.export import vllm_content
from autotune.engines.backend import EngineBackend
from autotune.errors import UserError
from autotune.machine.devices import Device
from autotune.machine.targets import known_device
from autotune.problem.layer import Stage
from autotune.protocol.backend import Backend
from autotune.protocol.content import Content, Place
from autotune.protocol.registry import load_backend
from autotune.results import LayerConfig
from autotune.store.records import WinnerRecord


def format_of(backend: Backend) -> str:
    """The one format in which a backend's winners can be served."""
    if isinstance(backend, EngineBackend):
        return backend.engine
    if writes_table(backend):
        return "aiter"
    return "env" if isinstance(backend, DeployedByEnvironment) else "json"


def require_format(backend: str, asked: str | None) -> None:
    """Makes sure that a format is the backend's.

    Raises:
        UserError: it is another.
    """
    made = format_of(load_backend(backend))
    if asked is not None and asked != made:
        raise UserError(f"winners of backend {backend} are served by --format {made}, not by {asked}")


def content_of(
    winners: Sequence[WinnerRecord], place: Place, setting: Mapping[str, str] | None = None
) -> Content:
    """The files of the winners' format, and the environment that their kernels need besides.

    Args:
        winners: of one layer on one stack, ascending by tokens.
        setting: the variables that deploy them, where variables do.

    Raises:
        UserError: they fit no file, or need unlike environments.
    """
    backend = load_backend(winners[0].backend)
    if isinstance(backend, EngineBackend):
        return _engine_content(backend, winners, place)
    if setting is not None:
        return Content({}, setting, {"env": {"variables": dict(setting)}})
    if isinstance(backend, DeployedByEnvironment):
        raise UserError(
            f"these kernels of {backend.name} ({winners[0].environment.kernel_source}) are called with"
            " parameters, and no engine reads those from a file or its environment: export winners of the"
            " published generation"
        )
    made = operator_content(winners, place)
    environment = {**made.variables, **process_environment(winners)}
    return Content(made.files, environment, made.lookups, made.previews, made.notes)


def _engine_content(backend: EngineBackend, winners: Sequence[WinnerRecord], place: Place) -> Content:
    layer, device = winners[0].problem.layer, _device(winners[0])

    def default(tokens: int) -> LayerConfig:
        return backend.default(layer, tokens, device)

    write = sglang_content if backend.engine == "sglang" else vllm_content
    return write(winners, backend.quantisation, default, place)


def _device(winner: WinnerRecord) -> Device:
    name = winner.environment.device
    device = known_device(name.removeprefix("offline:"))
    if device is None:
        raise UserError(
            f"the engine's default on {name!r} is not known, which the file needs where nothing was tuned:"
            " add the GPU to autotune/machine/devices.py"
        )
    return device


def process_environment(winners: Sequence[WinnerRecord]) -> dict[str, str]:
    """The process environment that the winners' kernels need; one process serves them all.

    Raises:
        UserError: two winners need unlike values.
    """
    variables: dict[str, str] = {}
    backend = load_backend(winners[0].backend)
    for winner in winners:
        for stage in Stage:
            for name, value in backend.environment(winner.config.of(stage)).items():
                if variables.setdefault(name, value) != value:
                    raise UserError(
                        f"winners at unlike shapes need {name}={variables[name]} and {name}={value},"
                        " which one process cannot have: export one shape at a time"
                    )
    return variables
