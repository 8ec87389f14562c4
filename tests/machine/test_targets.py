"""The GPU of this machine is asked for in a process of its own."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.machine import probe
from autotune.machine.devices import DEVICES
from autotune.tuning.targets import resolve_target


def _answers(monkeypatch: pytest.MonkeyPatch, *codes: int) -> None:
    """Lets the probe end with these codes, one after the other."""
    left = list(codes)

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        code = left.pop(0)
        told = json.dumps(asdict(DEVICES["h100"])) if code == 0 else ""
        return subprocess.CompletedProcess(
            command, code, told, "RuntimeError: no driver\n" if code > 0 else ""
        )

    monkeypatch.setattr(probe.subprocess, "run", run)


def test_a_probe_that_was_killed_asks_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    _answers(monkeypatch, -9, 0)
    assert resolve_target("live").device == DEVICES["h100"]


def test_a_question_to_the_gpu_is_asked_once_where_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, 0, 0, 0)
    with probe.answers_kept():
        assert probe.probe("a:b") == probe.probe("a:b") == probe.probe("a:c")
    probe.probe("a:b")
    with pytest.raises(IndexError):  # all three were asked
        probe.probe("a:b")


def test_a_probe_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    _answers(monkeypatch, 1)
    with pytest.raises(UserError, match=r"torch cannot use a GPU here .*no driver"):
        resolve_target("live")
