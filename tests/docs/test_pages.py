"""The pages cannot rot: every command in them is a command with those options, and some are run."""

import json
import re
import shlex
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from autotune.cli import app
from tests.cli.helper import ROOT
from tests.report.conftest import h100

__all__ = ["h100"]  # a fixture

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINKING = [ROOT / "README.md", ROOT / "db" / "README.md", ROOT / "scripts" / "first_day.md", *PAGES]
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[a-z0-9: ]+) -->\n)?```(?P<kind>[a-z]+)\n(?P<text>.*?)```", re.DOTALL)
_TASKS = (
    "tune", "export", "deploy", "offline", "read-the-report", "add-a-backend", "add-a-model", "database",
    "triton", "engines", "aiter", "options",
)  # fmt: skip
_EXPLAINED = ("architecture", "search", "how-a-time-is-made", "glossary", "testing")


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, kind: str, mark: str | None = None) -> list[str]:
    return [
        found["text"]
        for found in _BLOCK.finditer(page.read_text())
        if found["kind"] == kind and mark in (None, found["mark"])
    ]


def _commands(text: str) -> list[list[str]]:
    """The words of each `autotune` command in a shell block, without what stands before it."""
    made = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if "autotune" in words:
                made.append(words[words.index("autotune") + 1 :])
    return made


def _check(words: list[str]) -> None:
    """Fails where a command or an option does not exist."""
    command: Any = get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        if name.startswith("--"):
            assert name in ("--install-completion", "--show-completion", "--version", "--help"), name
            return
        assert name in command.commands, f"there is no autotune {name}"
        command = command.commands[name]
    known = {o for param in command.params for o in (*param.opts, *param.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{command.name} has no {word}"


def test_there_is_a_page_a_task_and_the_index_links_them_all() -> None:
    index = (DOCS / "README.md").read_text()
    for name in (*_TASKS, *_EXPLAINED):
        assert (DOCS / f"{name}.md").is_file()
    for page in PAGES:
        assert page.name == "README.md" or f"({page.name})" in index


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=_named)
def test_every_command_in_it_exists_with_its_options(page: Path) -> None:
    commands = [words for text in _blocks(page, "sh") for words in _commands(text)]
    assert commands or page.stem not in _TASKS
    for words in commands:
        _check(words)
    for quoted in re.findall(r"`autotune ([^`]+)`", page.read_text()):
        if not quoted.startswith("COMMAND"):
            _check(shlex.split(quoted))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=_named)
def test_every_script_in_it_exists_with_its_options(page: Path) -> None:
    lines = page.read_text().replace("\\\n", " ")
    for script, options in re.findall(r"python\s(scripts/[a-z_]+\.py)([^`\n]*)", lines):
        text = (ROOT / script).read_text()
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in text, f"{script} has no {option}"


def _anchors(page: Path) -> set[str]:
    """What a heading is linked by, as GitHub makes it: small letters, no punctuation, hyphens for blanks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=_named)
def test_its_links_lead_to_a_file_and_to_a_heading_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        leads_to = page.parent / name if name else page
        assert leads_to.exists(), target
        if anchor:
            assert anchor in _anchors(leads_to), target


_PATHS = re.compile(r"`((?:autotune|db|docs|scripts|search_spaces|tests)/[a-z0-9_./-]*)`")
_NAMES = re.compile(r"`(autotune\.(?!env`|db`|conf`)[A-Za-z_0-9.]+)`")  # not the files of a bundle


@pytest.mark.parametrize("page", LINKING, ids=_named)
def test_the_files_and_names_that_it_mentions_exist(page: Path) -> None:
    text = page.read_text()
    for path in _PATHS.findall(text):
        assert (ROOT / path).exists(), path
    for name in _NAMES.findall(text):
        at, parts = ROOT, name.split(".")
        while parts and (at / parts[0]).is_dir():
            at /= parts.pop(0)
        module = (
            at / f"{parts.pop(0)}.py" if parts and (at / f"{parts[0]}.py").is_file() else at / "__init__.py"
        )
        source = module.read_text()
        assert all(re.search(rf"^ *(?:def |class )?{part}\b", source, re.MULTILINE) for part in parts), name


def _run(words: list[str]) -> str:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if _blocks(page, "sh", "run: h100")], ids=lambda page: page.name
)
def test_marked_commands_run_on_a_recorded_database(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in _blocks(page, "sh", "run: h100"):
        for words in _commands(text):
            assert _run(words)


def test_a_model_s_own_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dims = {"hidden_size": 4096, "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8}
    Path("config.json").write_text(json.dumps({"model_type": "my-moe", **dims}))
    (text,) = _blocks(DOCS / "add-a-model.md", "sh", "run: model")
    for words in _commands(text):
        assert "my-moe/tp4/d4096.i384.e128.k8" in _run(words)


@pytest.mark.usefixtures("h100")
def test_the_queries_answer(own_database: Path) -> None:
    queries = _blocks(DOCS / "database.md", "sql", "sql")
    assert len(queries) == 2
    with sqlite3.connect(own_database) as connection:
        for query in queries:
            assert connection.execute(query).fetchall()


def _all_commands() -> list[tuple[str, Any]]:
    """Every command with its full name."""
    made = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        nested = getattr(command, "commands", None)
        made += [(f"{name} {sub}", one) for sub, one in nested.items()] if nested else [(name, command)]
    return made


@pytest.mark.parametrize(
    ("name", "command"), _all_commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_s_help_has_examples_that_exist(name: str, command: Any) -> None:
    text = command.help or ""
    if name in ("db path", "db upgrade"):
        return  # nothing but a database to name
    examples = re.findall(r"^\s*(?:Examples?: )?autotune (.+)$", text, re.MULTILINE)
    assert examples, f"autotune {name} --help has no example"
    for example in examples:
        words = shlex.split(example)
        assert words[: len(name.split())] == name.split()
        _check(words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell: str) -> None:
    typed = {
        "_AUTOTUNE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "autotune rep",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "autotune rep",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert "report" in CliRunner().invoke(app, [], env=typed, prog_name="autotune").output
