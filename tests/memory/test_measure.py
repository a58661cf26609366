from __future__ import annotations

import subprocess
import sys

import pytest

from littlecascade.memory.measure import peak_rss

CODE = """
from littlecascade.memory.measure import peak_rss
before = peak_rss()
block = bytearray(b"x") * (200 << 20)
during = peak_rss()
del block
print(before, during, peak_rss())
"""


def test_the_peak_is_that_of_this_process_and_stays() -> None:
    """In a fresh process, which must not be charged with what this one holds."""
    held = bytearray(b"x") * (300 << 20)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, during, after = map(int, done.stdout.split())
    assert before < len(held)
    assert during - before == pytest.approx(200 << 20, rel=0.1)
    assert after == pytest.approx(during, rel=0.02)  # Linux counts in lots
    assert peak_rss() > len(held)
