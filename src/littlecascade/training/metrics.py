"""The metrics of a run: figures of single updates, averaged into rows, with the rate, the time left and the memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from littlecascade.memory.measure import peak_rss

LOG_EVERY = 10
_GIB = 1 << 30


class Log:
    """Averages the figures of a few updates into one row. `latest`: for the progress bar.

    batch_size: pictures of an update. write: is given each row, with `None` for a mean of nothing finite.
    """

    def __init__(self, batch_size: int, write: Callable[[dict[str, float | None]], None]) -> None:
        self.batch_size, self._write = batch_size, write
        self.rows: list[dict[str, float]] = []
        self.latest: dict[str, str] = {}

    def add(self, step: int, updates: int, figures: dict[str, float]) -> bool:
        """Take in the figures of update number `step` of so many, `seconds` among them. Returns if a row is due."""
        self.rows.append(figures)
        shown = {name: f"{value:.4g}" for name, value in figures.items() if name.endswith("loss")}
        shown["pictures/s"] = f"{self._rate():.3g}"
        shown |= {name.removesuffix("_gib"): f"{value:.1f} GiB" for name, value in memory().items()}
        self.latest = shown | ({"skipped": f"{figures['skipped']:.0f}"} if figures["skipped"] else {})
        if due := step % LOG_EVERY == 0:
            self.flush(step, updates)
        return due

    def flush(self, step: int, updates: int) -> None:
        """Write a row of what came in since the last one."""
        if not self.rows:
            return
        names = dict.fromkeys(name for row in self.rows for name in row)
        means = {name: mean([row[name] for row in self.rows if name in row]) for name in names}
        rate = self._rate()
        left = (updates - step) * self.batch_size / rate
        means |= {"pictures_per_second": rate, "seconds_left": left, **memory()}
        finite = {name: value if math.isfinite(value) else None for name, value in means.items()}
        self._write({"step": step, **finite})
        self.rows.clear()

    def _rate(self) -> float:
        return self.batch_size / max(mean([row["seconds"] for row in self.rows]), 1e-9)


def memory() -> dict[str, float]:
    """The most memory that this process, and its tensors on the GPU in use, have taken so far, in GiB."""
    taken = {"memory_gib": peak_rss() / _GIB}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        taken["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / _GIB
    return taken


def mean(values: list[float]) -> float:
    """The mean of the finite values; NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
