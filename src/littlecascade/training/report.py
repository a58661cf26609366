"""The report of a run: one HTML file with its curves and preview pictures, needing nothing but a browser."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from littlecascade.training.config import RunConfig
from littlecascade.training.runstate import RunFolder

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 200, 56, 8, 22
POINTS = 400  # of a curve, at most
NAMED = 100  # broken samples that are listed
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;max-width:1200px;color:#222}"
    "figure{display:inline-block;margin:0 1.5em 1.5em 0}figcaption{font-weight:600;margin-bottom:.3em}"
    "img{max-width:100%}table{border-collapse:collapse}td{padding:.1em .8em .1em 0}svg text{font-size:11px;fill:#555}"
)


def write_report(folder: RunFolder, config: RunConfig, broken: Sequence[str] = ()) -> None:
    """Write `report.html` into the run's folder. `broken` says what of the data could not be read."""
    title = html.escape(config.experiment_id)
    folder.write(
        "report.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{_curves(folder.metrics())}<h2>Pictures</h2>{_pictures(folder.folder)}{_broken(broken)}"
        f"<h2>Settings</h2>{_settings(config)}</html>",
    )


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "step"]
    return "".join(_figure(name, curve(rows, name)) for name in names)


def _pictures(folder: Path) -> str:
    previews = {int(path.stem.removeprefix("preview-")): path.name for path in folder.glob("preview-*.png")}
    return "".join(
        _figure(f"{step} updates", f'<img src="{previews[step]}" alt="" loading="lazy">')
        for step in sorted(previews, reverse=True)
    )


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
