"""What stands around humming's GEMMs in a layer: our sort and our sum, interpreted."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_sort_and_the_sum_are_right() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.humming.interpreted_glue"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "right\n", done.stderr
