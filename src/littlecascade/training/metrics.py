"""The metrics of a run: figures of single updates, averaged into rows."""

from __future__ import annotations

import math

from littlecascade.training.runstate import RunFolder

LOG_EVERY = 10


class Log:
    """Averages the figures of a few updates into one row of the metrics. `latest`: for the progress bar."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.latest: dict[str, str] = {}

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Take in the figures of update number `step`."""
        self.rows.append(figures)
        if step % LOG_EVERY == 0:
            self.flush(step)
        shown = {name: f"{value:.4g}" for name, value in figures.items() if name.endswith("loss")}
        self.latest = shown | ({"skipped": f"{figures['skipped']:.0f}"} if figures["skipped"] else {})

    def flush(self, step: int) -> None:
        """Write a row of what came in since the last one; a mean of nothing finite is null."""
        if self.rows:
            names = dict.fromkeys(name for row in self.rows for name in row)
            means = {name: mean([row[name] for row in self.rows if name in row]) for name in names}
            finite = {name: value if math.isfinite(value) else None for name, value in means.items()}
            self.folder.log({"step": step, **finite})
            self.rows.clear()


def mean(values: list[float]) -> float:
    """The mean of the finite values; NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
