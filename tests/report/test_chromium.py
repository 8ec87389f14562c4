"""The report in a real browser: nothing sticks out at phone width, both schemes paint."""

import gzip
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from autotune.report.content import Scope, gather
from autotune.report.page import page
from autotune.store.store import Store
from tests.report.conftest import RECORDED
from tests.report.synthetic import fill

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

_MEASURE = """<script>addEventListener('load', () => {
  document.querySelectorAll('details').forEach(one => one.open = true);
  const wide = [...document.querySelectorAll('body *')].filter(
    e => !e.closest('.scroll, .skip, svg') && e.getBoundingClientRect().right > innerWidth + 1);
  const fits = document.documentElement.scrollWidth <= innerWidth;
  const scrolled = [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1);
  parent.postMessage(JSON.stringify([fits, wide.length, scrolled.length]), '*');
});</script>"""


def _chromium(tmp_path: Path, *options: str, file: Path, attempts: int = 2) -> str:
    """Runs it once; a browser that hangs on its way up is started again."""
    assert CHROMIUM is not None
    for attempt in range(attempts):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", f"--user-data-dir={tmp_path / f'profile{attempt}'}", *options,
            file.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=True)
        except subprocess.TimeoutExpired:
            continue
        return done.stdout
    pytest.skip("Chromium does not come up here")


@dataclass(frozen=True)
class Layout:
    """A page laid out with every fold open.

    Attributes:
        fits: it does not scroll sideways.
        out: elements that stick out.
        scrolled: tables that scroll sideways by themselves.
    """

    fits: bool
    out: int
    scrolled: int


def _layout(tmp_path: Path, html: str, width: int) -> Layout:
    (tmp_path / "report.html").write_text(html.replace("</body>", f"{_MEASURE}</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!DOCTYPE html><script>onmessage = e => document.documentElement.dataset.found = e.data</script>
        <iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>"""
    )
    dom = _chromium(
        tmp_path, "--dump-dom", "--virtual-time-budget=5000", "--window-size=1400,950", file=frame
    )
    fits, out, scrolled = dom.split('data-found="[')[1].split(']"')[0].split(",")
    return Layout(fits == "true", int(out), int(scrolled))


# A headless window is no narrower than 500 pixels: a phone's width is a frame in it.
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["h100-m4.db.gz", "mi325x-offline-m4.db.gz"])
def test_nothing_sticks_out_and_no_table_is_too_wide(
    own_database: Path, tmp_path: Path, name: str, width: int
) -> None:
    own_database.write_bytes(gzip.decompress((RECORDED.parent / name).read_bytes()))
    with Store.open() as store:
        layout = _layout(tmp_path, page(store, gather(store, Scope())), width)
    assert (layout.fits, layout.out, layout.scrolled) == (True, 0, 0)


@pytest.mark.slow
def test_eight_shapes_of_5000_trials_fit_a_phone_with_every_fold_open(store: Store, tmp_path: Path) -> None:
    fill(store, trials=5000)
    layout = _layout(tmp_path, page(store, gather(store, Scope())), 360)
    assert (layout.fits, layout.out, layout.scrolled) == (True, 0, 0)


def test_light_and_dark_paint_what_the_reader_prefers(h100: Store, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(h100, gather(h100, Scope())))
    papers = []
    for scheme in ("1", "0"):  # Blink's numbers: 0 is dark, 1 is light
        shot = tmp_path / f"{scheme}.png"
        _chromium(
            tmp_path,
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={shot}",
            "--window-size=800,600",
            file=file,
        )
        papers.append(_first_pixel(shot))
    assert papers == [(255, 255, 255), (14, 18, 22)]


def _first_pixel(png: Path) -> tuple[int, ...]:
    """Red, green and blue of the upper left corner."""
    data, place, packed = png.read_bytes(), 8, b""
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            packed += data[place + 8 : place + 8 + length]
        place += 12 + length
    # The first line has a filter byte before it; no filter changes its first pixel.
    return tuple(zlib.decompress(packed)[1:4])
