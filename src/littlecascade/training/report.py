"""The report of a run: one HTML file with its curves and preview pictures, needing nothing but a browser.

While the run goes on the page reloads itself, from the disk as from anywhere else.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from littlecascade.training.config import RunConfig
from littlecascade.training.runstate import RunFolder
from littlecascade.training.timetable import told

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 200, 56, 8, 22
POINTS = 400  # of a curve, at most
NAMED = 100  # broken samples that are listed
RELOAD = 20
"""Seconds after which a page of a run that goes on is loaded again, and written again at the soonest."""
_SHARE = 0.01  # of the time that writing it may take
_WITHOUT_CURVE = ("step", "seconds_left")
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;max-width:1200px;color:#222}"
    "figure{display:inline-block;margin:0 1.5em 1.5em 0;vertical-align:top}"
    "figcaption{font-weight:600;margin-bottom:.3em}"
    ".pair{display:flex;gap:1.5em}.pair figure{flex:1;margin-right:0}"
    "img{max-width:100%}table{border-collapse:collapse}td{padding:.1em .8em .1em 0}svg text{font-size:11px;fill:#555}"
)


class Report:
    """`report.html` in a run's folder. broken: gives what of the data could not be read."""

    def __init__(self, folder: RunFolder, config: RunConfig, broken: Callable[[], Sequence[str]] = tuple) -> None:
        self._folder, self._config, self._broken = folder, config, broken
        self._due = 0.0

    def renew(self) -> None:
        """Write it unless that was done a short time ago."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self, *, running: bool = True) -> None:
        """Write it whole or not at all. running: the page loads itself again."""
        start = time.monotonic()
        self._folder.write("report.html", self._page(self._folder.metrics(), running=running))
        end = time.monotonic()
        self._due = end + max(RELOAD, (end - start) / _SHARE)

    def _page(self, rows: Sequence[Mapping[str, Any]], *, running: bool) -> str:
        title = html.escape(self._config.experiment_id)
        reload = f'<meta http-equiv="refresh" content="{RELOAD}">' if running else ""
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8">{reload}<title>{title}</title><style>{STYLE}</style>'
            f"<h1>{title}</h1>{_state(rows, running=running)}{_curves(rows, losses=True)}"
            f"<h2>Pictures</h2>{_pictures(self._folder.folder)}"
            f"<h2>Other curves</h2>{_curves(rows, losses=False)}"
            f"{_broken(self._broken())}<h2>Settings</h2>{_settings(self._config)}</html>"
        )


def _state(rows: Sequence[Mapping[str, Any]], *, running: bool) -> str:
    """How far the run is, in a sentence."""
    last = rows[-1] if rows else {}
    parts = [f"{last.get('step', 0):,} updates"]
    if rate := last.get("pictures_per_second"):
        parts.append(f"{rate:.3g} pictures a second")
    if memory := last.get("memory_gib"):
        parts.append(f"{memory:.1f} GiB of memory at most")
    if memory := last.get("gpu_memory_gib"):
        parts.append(f"{memory:.1f} GiB of the GPU at most")
    if running and (left := last.get("seconds_left")):
        parts.append(f"{told(left)} left")
    return f"<p>{', '.join(parts)}{'' if running else '; not running'}</p>"


def _curves(rows: Sequence[Mapping[str, Any]], *, losses: bool) -> str:
    """Of the losses, or of all else."""
    names = dict.fromkeys(key for row in rows for key in row if key not in _WITHOUT_CURVE)
    return "".join(_figure(name, curve(rows, name)) for name in names if ("loss" in name) is losses)


def _pictures(folder: Path) -> str:
    """The first preview beside the latest, then all in the order of time."""
    previews = sorted((int(path.stem.removeprefix("preview-")), path.name) for path in folder.glob("preview-*.png"))
    figures = [_figure(f"{step} updates", f'<img src="{name}" alt="" loading="lazy">') for step, name in previews]
    if len(figures) < 3:
        return f'<div class="pair">{"".join(figures)}</div>'
    return f'<div class="pair">{figures[0]}{figures[-1]}</div><h2>All, in order</h2>{"".join(figures)}'


def _broken(broken: Sequence[str]) -> str:
    if not broken:
        return ""
    named = "".join(f"<li>{html.escape(line)}</li>" for line in broken[:NAMED])
    more = f"<p>and {len(broken) - NAMED} more</p>" if len(broken) > NAMED else ""
    return f"<h2>{len(broken)} left out of the data</h2><ul>{named}</ul>{more}"


def _settings(config: RunConfig) -> str:
    values = config.model_dump(mode="json").items()
    rows = (f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>" for key, value in values)
    return f"<table>{''.join(rows)}</table>"


def _figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{content}</figure>"


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """One metric over the updates as SVG, thinned to at most `POINTS` points, each the mean of its stretch.

    The lowest value lies on the axis, `BOTTOM` above the lower edge, and the highest `TOP` below the upper one.
    """
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if not points:
        return ""
    stretch = -(-len(points) // POINTS)
    groups = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    steps = [group[-1][0] for group in groups]
    values = [sum(value for _, value in group) / len(group) for group in groups]
    low, high = min(values), max(values)
    first, last = steps[0], steps[-1]
    across = (WIDTH - LEFT) / max(last - first, 1)
    up = (HEIGHT - BOTTOM - TOP) / ((high - low) or 1.0)
    path = " ".join(
        f"{LEFT + (step - first) * across:.1f},{HEIGHT - BOTTOM - (value - low) * up:.1f}"
        for step, value in zip(steps, values, strict=True)
    )
    base = HEIGHT - BOTTOM
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{html.escape(name)}">'
        f'<path d="M{LEFT} 4V{base}H{WIDTH}" fill="none" stroke="#ccc"/>'
        f'<polyline points="{path}" fill="none" stroke="#2563eb" stroke-width="1.5"/>'
        f'<text x="{LEFT - 4}" y="14" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{last}</text></svg>'
    )
