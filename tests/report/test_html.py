"""The HTML report: one file, complete, safe to open, small and quick with thousands of trials."""

import gzip
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.export.export import Selection, export
from autotune.report.content import Report, Scope, gather
from autotune.report.page import page
from autotune.report.write import ReportFormat, format_of, write_report
from autotune.store.store import Store
from tests.cli.helper import env
from tests.report.conftest import RECORDED
from tests.report.synthetic import fill

_VOID = {"meta", "br"}


class _Reader(HTMLParser):
    """Checks that elements nest, and collects text, links and what would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        self.links += [found["href"] or ""] if "href" in found else []
        self.loads += [f"{tag} {name}" for name in ("src", "srcset", "data", "action") if name in found]
        self.loads += [tag] if tag in ("script", "link", "iframe", "img", "object") else []
        self.loads += [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html.replace("<wbr>", ""))  # where a line may break: nothing to read
    assert reader.open == []
    return reader


def test_it_tells_what_was_tuned_what_won_and_how_sure(h100: Store) -> None:
    text = " ".join(_read(page(h100, gather(h100, Scope()))).text)
    for part in (
        "kimi-k2.5-w4a8/tp8/d7168.i256.e384.k8",
        "NVIDIA H100 80GB HBM3",
        "580.159.04",  # the driver
        "autotune run --shape m4 --trials 150",
        "1.6% faster than the default",
        "44.20",  # the default in the rounds that decided, and its interval
        "44.09 to 44.40",
        "pdl=true,w_cache=first",
        "58% → 59%",  # of the byte limit
        "3.35 TB/s, h100's datasheet",
        "32 (final)",
        "stage1: 150 configs",
        "stage2 14.66 → 14.41 µs",  # what the search said and what the final said
        "measured",
        "Questions",
        "num_stages",
        "lds_bytes",
        "Relative error",
    ):
        assert part in text, part


def test_it_loads_nothing_and_runs_nothing(h100: Store) -> None:
    html = page(h100, gather(h100, Scope()))
    read = _read(html)
    assert read.loads == []
    assert all(link.startswith("#") and link[1:] in read.ids for link in read.links)
    assert "url(" not in html
    assert "@import" not in html
    assert "//" not in html.replace("<!DOCTYPE html>", "")


def test_it_is_made_for_keyboards_and_for_both_schemes(h100: Store) -> None:
    html = page(h100, gather(h100, Scope()))
    assert '<html lang="en">' in html
    assert 'class="skip"' in html
    assert html.count('class="scroll"') == html.count('tabindex="0"') > 5
    assert html.count("<caption>") == html.count("<table")
    assert "prefers-color-scheme:dark" in html
    assert "@media print" in html
    assert all("aria-label" in svg for svg in re.findall("<svg[^>]*>", html))


def test_text_from_the_outside_cannot_become_markup(large: Store, large_report: Report) -> None:
    html = page(large, large_report)
    assert "<b>none" not in html
    assert "&lt;b&gt;none &amp; made up&lt;/b&gt;" in html
    assert "error: &lt;unknown&gt;" in html
    _read(html)


def test_a_plain_install_is_enough(h100: Store, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'triton', 'pyarrow', 'jinja2', 'matplotlib', 'pandas', 'optuna_dashboard'):\n"
        "    sys.modules[name] = None\n"
        "from autotune.cli import app\n"
        f"app(['report', '--out', {str(tmp_path / 'report.html')!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert "300 candidates" in done.stdout
    _read((tmp_path / "report.html").read_text())


def test_an_estimate_s_short_list_says_so_at_every_time(own_database: Path) -> None:
    own_database.write_bytes(gzip.decompress((RECORDED.parent / "mi325x-offline-m4.db.gz").read_bytes()))
    with Store.open() as store:
        html = page(store, gather(store, Scope()))
    text = " ".join(_read(html).text)
    assert "estimate for offline:mi325x, not measured" in text
    assert "measured µs" not in text
    assert html.count('class="kind estimate"') >= 4
    assert 'class="kind measured"' not in html
    assert "constraint" in text  # refused candidates with their reasons
    assert "waits" in text  # what the compiled code says


def test_equal_databases_give_equal_pages(h100: Store) -> None:
    assert page(h100, gather(h100, Scope())) == page(h100, gather(h100, Scope()))


def test_with_many_trials_it_stays_small(large: Store, large_report: Report) -> None:
    html = page(large, large_report)
    assert len(html.encode()) < 1_000_000
    assert html.count("<") < 30_000  # a browser lays it out at once


def test_every_shape_is_there_the_kept_default_and_the_undecided_too(
    large: Store, large_report: Report
) -> None:
    text = " ".join(_read(page(large, large_report)).text)
    for shape in range(1, 9):
        assert f"m{shape}: {shape} token" in text
    assert "6 of 7 problems have a config that is faster than the default, by 11.0% (measured)" in text
    assert "1 of 8 have no final" in text
    assert "kept default on Made-up MI325X" in text.replace("Kept", "kept")
    for status in ("constraint", "compile_error", "compile_timeout", "runtime_error", "timeout", "incorrect"):
        assert status in text


def test_a_run_a_device_or_a_bundle_is_reported_on(h100: Store, tmp_path: Path) -> None:
    second = fill(h100, trials=32, shapes=1)
    assert [run.id for run in gather(h100, Scope()).runs] == [second]
    assert [run.id for run in gather(h100, Scope(run=1)).runs] == [1]
    on_device = gather(h100, Scope(device="h100"))
    assert on_device.title == "NVIDIA H100 80GB HBM3"
    assert {stack.device for stack in on_device.stacks} == {"NVIDIA H100 80GB HBM3"}
    export(h100, tmp_path / "deploy", Selection(device="H100"))
    (bundled,) = gather(h100, Scope(bundle=tmp_path / "deploy")).problems
    assert bundled.winner is not None
    assert bundled.winner.gain == pytest.approx(0.0163, abs=1e-4)


def test_unlike_stacks_stand_in_tables_of_their_own(h100: Store) -> None:
    fill(h100, trials=32, shapes=1)
    report = gather(h100, Scope(device="M"))  # both
    text = " ".join(_read(page(h100, report)).text)
    assert "2 different stacks" in text
    assert text.count("Time of the layer in µs on") == 2


@pytest.mark.parametrize(
    ("scope", "remedy"),
    [
        (Scope(run=7), "autotune history"),
        (Scope(device="MI325X"), "autotune history"),
        (Scope(bundle=Path("/nowhere")), "autotune export"),
        (Scope(run=1, device="H100"), "give one of them"),
    ],
)
def test_what_cannot_be_reported_on_is_one_sentence(h100: Store, scope: Scope, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        gather(h100, scope)


def test_a_bundle_of_another_database_is_told(h100: Store, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="--db"):
        gather(h100, Scope(bundle=tmp_path))


def test_an_empty_database_is_told(own_database: Path) -> None:
    with Store.open() as store, pytest.raises(UserError, match="autotune run --shape m4"):
        gather(store, Scope())


def test_the_file_s_ending_names_the_format() -> None:
    endings = {"a.html": "html", "a.md": "md", "a.CSV": "csv", "a.parquet": "parquet", "a": "html"}
    for name, format_ in endings.items():
        assert format_of(Path(name), None) == format_
    assert format_of(Path("a.html"), "md") is ReportFormat.MD
    assert format_of(Path("a.txt"), "md") is ReportFormat.MD
    with pytest.raises(UserError, match="use one of html, md, csv, parquet"):
        format_of(Path("a"), "pdf")
    with pytest.raises(UserError, match=r"--out a.json has no known suffix"):
        format_of(Path("a.json"), None)


def test_a_file_that_cannot_be_written_is_told(h100: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        write_report(h100, Scope(), tmp_path / "file" / "report.html", ReportFormat.HTML)
