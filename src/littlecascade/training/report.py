"""The report of a run: one HTML file with its curves and preview pictures, needing nothing but a browser."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

from littlecascade.training.config import RunConfig
from littlecascade.training.runstate import RunFolder

WIDTH, HEIGHT, LEFT, BOTTOM = 560, 200, 56, 22
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;max-width:1200px;color:#222}"
    "figure{display:inline-block;margin:0 1.5em 1.5em 0}figcaption{font-weight:600;margin-bottom:.3em}"
    "img{max-width:100%}table{border-collapse:collapse}td{padding:.1em .8em .1em 0}svg text{font-size:11px;fill:#555}"
)


def write_report(folder: RunFolder, config: RunConfig) -> None:
    """Write `report.html` into the run's folder."""
    rows = folder.metrics()
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "step"]
    curves = "".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>{curve(rows, name)}</figure>" for name in names
    )
    previews = sorted(folder.folder.glob("preview-*.png"), reverse=True)
    pictures = "".join(
        f'<figure><figcaption>{path.stem.removeprefix("preview-").lstrip("0") or "0"} updates</figcaption>'
        f'<img src="{path.name}" alt="" loading="lazy"></figure>'
        for path in previews
    )
    settings = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in config.model_dump(mode="json").items()
    )
    title = html.escape(config.experiment_id)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{curves}<h2>Pictures</h2>{pictures}<h2>Settings</h2><table>{settings}</table></html>"
    )
    temporary = folder.folder / "report.partial.html"
    temporary.write_text(page, "utf-8")
    os.replace(temporary, folder.folder / "report.html")


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """One metric over the updates as SVG, thinned to at most 400 points, each the mean of its stretch."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if not points:
        return ""
    stretch = max(1, len(points) // 400)
    groups = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    steps = [group[-1][0] for group in groups]
    values = [sum(value for _, value in group) / len(group) for group in groups]
    low, high = min(values), max(values)
    first, last = steps[0], steps[-1]
    across = (WIDTH - LEFT) / max(last - first, 1)
    up = (HEIGHT - BOTTOM - 8) / ((high - low) or 1.0)
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
