"""One set of variables, four texts, each of which its reader gives back unchanged."""

import json
import re
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UserError
from autotune.export.env_file import config_map_text, env_files, env_text, shell_text, systemd_text

NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=20).filter(str.isprintable)
ANY = st.dictionaries(NAMES, VALUES, max_size=4)
NASTY = {"A": "1", "B": "true", "C": "a 'b' \"c\" $HOME %h \\n `id`", "D": "", "E": "x: #y"}


def read_shell(text: str) -> dict[str, str]:
    values = (line.removeprefix("export ") for line in text.splitlines() if line.startswith("export "))
    return {name: "".join(shlex.split(value)) for name, _, value in (v.partition("=") for v in values)}


def read_config_map(text: str) -> dict[str, str]:
    entries = re.findall(r'^  (\w+): (".*")$', text.partition("data:")[2], re.MULTILINE)
    return {name: json.loads(value) for name, value in entries}


def read_systemd(text: str) -> dict[str, str]:
    read = {}
    for setting in re.findall(r'^Environment="(.*)"$', text, re.MULTILINE):
        plain = re.sub(r"\\(.)", r"\1", setting).replace("%%", "%")
        name, _, value = plain.partition("=")
        read[name] = value
    return read


@given(ANY)
def test_a_shell_reads_them(variables: dict[str, str]) -> None:
    assert read_shell(shell_text(variables, "c")) == variables


@given(ANY)
def test_kubernetes_reads_them_as_strings(variables: dict[str, str]) -> None:
    assert read_config_map(config_map_text(variables, "c")) == variables


@given(ANY)
def test_systemd_reads_them(variables: dict[str, str]) -> None:
    assert read_systemd(systemd_text(variables, "c")) == variables


def test_a_real_shell_agrees() -> None:
    names = " ".join(f'"${name}"' for name in NASTY)
    script = f"{shell_text(NASTY, 'c')}\nprintf '%s\\n' {names}"
    out = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == list(NASTY.values())


def test_yaml_agrees() -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(config_map_text(NASTY, "c"))["data"] == NASTY
    assert yaml.safe_load(config_map_text({}, "c"))["data"] == {}


def test_docker_and_the_shell_must_agree_on_the_plain_file() -> None:
    assert env_text({"B": "/x/y:z", "A": "1"}, "c") == "# c\nA=1\nB=/x/y:z\n"
    with pytest.raises(UserError, match="--bundle-path"):
        env_text({"A": "with blank"}, "c")


def test_a_line_break_fits_none_of_them() -> None:
    for render in (env_text, shell_text, config_map_text, systemd_text):
        with pytest.raises(UserError):
            render({"A": "x\nB=2"}, "c")


def test_the_bundle_has_all_four() -> None:
    assert list(env_files({"A": "1"}, "c")) == [
        "autotune.env",
        "env/autotune.sh",
        "env/configmap.yaml",
        "env/autotune.conf",
    ]
