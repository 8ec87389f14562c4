"""What a judge on a cluster does when its actor answers, refuses, or is lost; Ray itself is a stub here."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.results import Gpu
from autotune.search.live import LiveJudge
from autotune.space.config import Config
from autotune.tuning import actors
from autotune.tuning.actors import RayCompiler, RayGpu
from tests.live_stand_in import TARGET, TINY, StandIn
from tests.store.examples import MI325X

PROBLEM = Problem(TINY, 2)


class RayError(Exception):
    """As Ray's."""


class RayActorError(RayError):
    """As Ray's."""


class RefusedThere(UserError):
    """As Ray hands on what an actor raised: a subclass of it, whose text is a traceback."""

    def __init__(self, cause: UserError) -> None:
        super().__init__("Traceback: …")
        self.cause = cause


class Actor:
    """A place in the cluster: each answer is a value, or an error that is raised."""

    def __init__(self, stack: Any = MI325X, answers: list[Any] | None = None) -> None:
        self.start = self._method(
            lambda: stack if isinstance(stack, Exception) else (stack, Gpu("node", "0"))
        )
        self.asked: list[tuple[Any, ...]] = []
        self._answers = answers or []
        self.ask = self._method(self._answer)
        self.__ray_ready__ = self._method(lambda: True)

    def _answer(self, *question: Any) -> Any:
        self.asked.append(question)
        return self._answers.pop(0)

    @staticmethod
    def _method(act: Callable[..., Any]) -> Any:
        def remote(*arguments: Any) -> Any:
            future: Future[Any] = Future()
            answer = act(*arguments)
            if isinstance(answer, Exception):
                future.set_exception(answer)
            elif answer is not None:  # what is None never comes
                future.set_result(answer)
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(remote=remote)


class Nowhere(Actor):
    """One that Ray does not place."""

    def __init__(self) -> None:
        super().__init__()
        self.__ray_ready__ = self._method(lambda: None)


def _ray(*places: Any) -> tuple[Any, list[Any]]:
    """A Ray that hands out these actors, in order; and those that were killed."""
    left, killed = list(places), []
    host = SimpleNamespace(remote=lambda *_: left.pop(0))
    affinity = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    ray = SimpleNamespace(
        remote=lambda _: SimpleNamespace(options=lambda **_: host),
        exceptions=SimpleNamespace(RayError=RayError, RayActorError=RayActorError),
        util=SimpleNamespace(scheduling_strategies=affinity),
        kill=killed.append,
    )
    return ray, killed


def _gpu(*places: Actor) -> tuple[RayGpu, list[Actor]]:
    """A judge whose actors are these, in order; and those that were killed."""
    ray, killed = _ray(*places)
    return RayGpu(ray, StandIn(), [PROBLEM], MeasureSettings(), None).__enter__(), killed


def _again(gpu: RayGpu) -> Any:
    return gpu.again(PROBLEM, Stage.STAGE1, Config({"us": 8000}))


@pytest.mark.parametrize("name", ["again", "layer", "race", "confirm", "time_all"])
def test_every_question_goes_to_the_actors_judge_as_it_is(name: str) -> None:
    place = Actor(answers=["the answer"])
    gpu, _ = _gpu(place)
    assert getattr(gpu, name)(1, 2, 3) == "the answer"
    assert place.asked == [(name, (1, 2, 3))]
    assert hasattr(LiveJudge, name)


def test_where_an_actor_is_lost_another_is_asked_the_same() -> None:
    first, second = Actor(answers=["one", RayActorError("gone")]), Actor(answers=["two"])
    gpu, killed = _gpu(first, second)
    assert gpu.gpu == Gpu("node", "0")
    assert [_again(gpu), _again(gpu)] == ["one", "two"]
    assert second.asked == first.asked[1:]
    assert killed == []


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (Actor(answers=[RayActorError("gone too")]), "its actor was lost again (gone too)"),
        (
            Actor(replace(MI325X, driver="other")),
            "its actor was lost (gone), and there is no other: the GPU that is free now is not equal",
        ),
        (
            Actor(RayActorError("dead")),
            "its actor was lost (gone), and there is no other: its actor was lost while it started (dead)",
        ),
        (
            Nowhere(),
            "its actor was lost (gone), and there is no other: Ray found no free GPU within 0 s: see `ray"
            " status` for what is busy",
        ),
    ],
)
def test_where_there_is_no_other_it_is_a_sentence(
    second: Actor, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "REVIVED_S", 0.0)
    gpu, killed = _gpu(Actor(answers=[RayActorError("gone")]), second)
    assert isinstance(gpu.fingerprint, Fingerprint)
    with pytest.raises(UserError) as told:
        _again(gpu)
    assert str(told.value) == says
    assert killed == ([] if "again" in says else [second])  # nothing is to be placed later


def test_an_actor_that_is_lost_while_it_starts_is_a_sentence() -> None:
    gpu, _ = _gpu(Actor(RayActorError("no memory")))
    with pytest.raises(UserError, match=r"its actor was lost while it started \(no memory\)"):
        print(gpu.fingerprint)


def test_what_an_actor_refuses_is_said_in_its_words() -> None:
    gpu, _ = _gpu(Actor(RefusedThere(UserError("torch sees no GPU"))))
    with pytest.raises(UserError, match=r"^torch sees no GPU$"):
        print(gpu.fingerprint)
    node = Node()
    compiled = _compiler(node)(1)
    node.end(RefusedThere(UserError("there is no Triton")))
    with pytest.raises(UserError, match=r"^there is no Triton$"):
        compiled.result(0)


def test_what_is_asked_of_a_closed_judge_is_cancelled() -> None:
    place = Actor(answers=[RayActorError("killed"), "too late"])
    gpu, killed = _gpu(place)
    gpu.close()
    assert killed == [place]
    for _ in range(2):
        with pytest.raises(CancelledError):
            _again(gpu)


class Node:
    """A node's pool: compiles come when they are told to."""

    def __init__(self) -> None:
        self.under_way: list[Future[Any]] = []
        self.compile = SimpleNamespace(remote=self._remote)

    def _remote(self, *_: Any) -> Any:
        self.under_way.append(Future())
        return SimpleNamespace(future=lambda: self.under_way[-1])

    def end(self, answer: Any) -> None:
        future = self.under_way.pop(0)
        future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)


def _compiler(*there: Node) -> Callable[[int], "Future[Any]"]:
    """Compiles the config of so many microseconds."""
    nodes = {str(number): 2 for number in range(len(there))}
    compiler = RayCompiler(_ray(*there)[0], StandIn(), TARGET.device, nodes, 1.0)
    return lambda us: compiler.submit(TINY, 2, Stage.STAGE1, Config({"us": us}))


def test_what_a_lost_node_was_compiling_is_compiled_on_another() -> None:
    first, second = Node(), Node()
    submit = _compiler(first, second)
    lost, beside = submit(1), submit(2)
    assert submit(1) is lost  # compiled once
    assert [len(node.under_way) for node in (first, second)] == [1, 1]
    first.end(RayActorError("node is gone"))
    assert [len(node.under_way) for node in (first, second)] == [0, 2]
    second.end("two")
    second.end("one")
    assert [lost.result(0), beside.result(0)] == ["one", "two"]
    submit(3)
    assert [len(node.under_way) for node in (first, second)] == [0, 1]  # nothing more for a node that is gone


def test_when_the_last_node_is_lost_it_is_a_sentence() -> None:
    node = Node()
    compiled = _compiler(node)(1)
    node.end(RayActorError("gone"))
    with pytest.raises(UserError, match="every node that compiled is lost"):
        compiled.result(0)
