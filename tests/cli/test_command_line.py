"""What every command owes whoever calls it: a fast start, one kind of error, output that any stream takes."""

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from autotune.__main__ import main
from autotune.cli.commands import COMMANDS
from tests.cli.helper import ROOT, Refused, autotune, command, env

NAMES = [name for commands in COMMANDS.values() for name in commands]


def test_help_imports_nothing_but_typer_and_the_standard_library() -> None:
    program = (
        "import sys, typer\nbefore = set(sys.modules)\nfrom autotune.__main__ import main\n"
        "sys.argv = ['autotune', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}), file=sys.stderr)\n"
        "print(*sorted(n for n in sys.modules if n.startswith('autotune.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env())
    assert done.returncode == 0, done.stderr
    tops, own = (line.split() for line in done.stderr.splitlines())
    allowed = {*sys.stdlib_module_names, "typer", "autotune"}
    assert set(tops) <= allowed
    assert set(own) <= {
        f"autotune.{name}"
        for name in (
            "__main__",
            "cli.invoke",
            "cli",
            "cli.commands",
            "cli.output",
            "errors",
            "processes",
            "processes.interrupt",
        )
    }


def test_help_names_every_command_under_its_task() -> None:
    said = autotune("--help").stdout
    for task, commands in COMMANDS.items():
        assert f"\n{task}:\n" in said
        for name in commands:
            assert f"\n  {name} " in said


def test_every_command_module_is_in_the_table_and_has_a_docstring() -> None:
    """A command that is in no table cannot be called."""
    for path in (ROOT / "autotune" / "cli").glob("*.py"):
        module = import_module(f"autotune.cli.{path.stem}")
        own = getattr(module, path.stem, None)
        is_command = hasattr(module, "app") or (inspect.isfunction(own) and inspect.getdoc(own))
        assert bool(is_command and path.stem != "__init__") == (path.stem in NAMES), path.stem


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("run --tp x", "'x'"),
        ("run --seed -1", "-1"),
        ("top --limit=1.5", "'1.5'"),
        ("show seven", "'seven'"),
        ("rnu", "'rnu'"),
        ("db nothing", "'nothing'"),
        ("run --foo", "--foo"),
        ("run --tp", "--tp"),
        ("spaces extra", "extra"),
        ("isa", "--config"),
        ("spaces --model nothing", "'nothing'"),
        ("spaces --shape m99", "m99"),
        ("check --stage stage3", "'stage3'"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_value_that_was_given(
    words: str, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["autotune", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert given in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "encoding", "width"),
    [
        ("compare --help", "ascii", "40"),
        ("spaces --shape m4", "ascii", "200"),
        ("spaces --shape m2,m8", "latin-1", "40"),
    ],
)
def test_any_encoding_and_width_will_do(words: str, encoding: str, width: str) -> None:
    given = {"PYTHONIOENCODING": encoding, "COLUMNS": width, "TERM": "dumb", "NO_COLOR": "1", "LC_ALL": "C"}
    done = subprocess.run(command(*words.split()), capture_output=True, env=env(**given))
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)  # what it is not, it must not claim
    assert "\x1b" not in text
    assert "?" not in text


@pytest.mark.parametrize(
    ("backend", "root", "python"),
    [
        ("triton", "no effect", "no effect"),
        ("aiter_main", "no effect", "no effect"),
        ("aiter_main_w4a16", "no effect", "AITER itself tells its kernels"),
        ("flydsl", "--flydsl-root or", "--flydsl-root or"),
        ("nothing", "unknown backend", "unknown backend"),
    ],
)
def test_options_of_flydsl_are_for_backends_that_read_them(
    refused: Refused, backend: str, root: str, python: str
) -> None:
    for option, told in (("--flydsl-root", root), ("--flydsl-python", python)):
        for order in (("--backend", backend, option, "/nowhere"), (option, "/nowhere", "--backend", backend)):
            assert told in refused("spaces", *order)


@pytest.mark.parametrize(
    "words",
    [
        "spaces --model-config {}",
        "run --target offline:mi325x --dry-run --routing file:{}",
        "run --plan {} --dry-run --target offline:mi325x",
        "run --target replay:{}",
        "verify {}",
        "ab {} /tmp",
        "ab --eval-base {} --eval-tuned /tmp",
        "show --db {}",
    ],
)
def test_a_path_that_no_system_call_takes_is_one_sentence(
    refused: Refused, tmp_path: Path, words: str
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path / ("a" * 300), loop):
        assert path.name[:20] in refused(*words.format(path).split())


def test_what_no_terminal_prints_is_told_as_an_escape(refused: Refused, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[problems]]\nmodel_config = "a\\u0000\\u001b[31m"\n')
    said = refused("run", "--plan", str(plan), "--dry-run", "--target", "offline:mi325x")
    assert r"a\x00\x1b[31m" in said


@pytest.mark.parametrize("words", ["ab . ", "db copy ", "export --out ", "export --out=", "verify "])
def test_an_empty_path_is_not_the_working_directory(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["autotune", *words.split(" ")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is empty: give a" in capsys.readouterr().err


def test_a_reader_that_leaves_ends_a_command_in_silence() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command("spaces", "--shape", "m4"), stdout=write, stderr=subprocess.PIPE, env=env())
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_no_standard_output_is_no_error() -> None:
    words = " ".join(command("spaces", "--shape", "m4"))
    done = subprocess.run(f"{words} >&-", shell=True, stderr=subprocess.PIPE, env=env())
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", ["spaces --shape m4", "db path"])
def test_a_full_disk_behind_standard_output_is_one_sentence(words: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(*words.split()), stdout=full, stderr=subprocess.PIPE, env=env())
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard output cannot be written")
    assert len(done.stderr.splitlines()) == 1


def test_json_has_no_word_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    from autotune.cli.output import print_json

    print_json({"error": float("inf"), "us": [1.0, float("nan")]})
    assert json.loads(capsys.readouterr().out) == {"error": None, "us": [1.0, None]}


def test_a_blas_has_one_thread_unless_the_user_says_otherwise() -> None:
    """The driver's small matrices would wait for cores that compiles keep busy."""
    code = (
        "import os, sys; sys.argv = ['autotune', '--version']\n"
        "from autotune.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)"
    )
    unset = {name: value for name, value in env().items() if name != "OPENBLAS_NUM_THREADS"}
    for given, wanted in (({}, "1 False"), ({"OPENBLAS_NUM_THREADS": "3"}, "3 False")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**unset, **given}, check=True
        )
        assert done.stdout.splitlines()[-1] == wanted
