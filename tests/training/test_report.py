from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from littlecascade.training.report import BOTTOM, HEIGHT, LEFT, NAMED, POINTS, RELOAD, TOP, WIDTH, Report, curve
from littlecascade.training.runstate import RunFolder


def coordinates(svg: str) -> list[tuple[float, float]]:
    match = re.search(r'points="([^"]*)"', svg)
    assert match is not None
    return [(float(x), float(y)) for x, y in (point.split(",") for point in match[1].split())]


def test_extremes_lie_on_the_edges() -> None:
    rows = [{"step": 10, "loss": 4.0}, {"step": 20, "loss": None}, {"step": 40, "loss": 2.0}, {"step": 30, "loss": 3.0}]
    first, second, third = coordinates(curve(sorted(rows, key=lambda row: row["step"]), "loss"))
    base = HEIGHT - BOTTOM
    assert first == (LEFT, TOP)
    assert third == (WIDTH, base)
    assert second == pytest.approx((LEFT + (WIDTH - LEFT) * 2 / 3, (TOP + base) / 2), abs=0.05)


def test_curves_of_one_point_of_equal_values_and_of_none() -> None:
    assert coordinates(curve([{"step": 5, "x": 1.0}], "x")) == [(LEFT, HEIGHT - BOTTOM)]
    flat = coordinates(curve([{"step": step, "x": 1.0} for step in (1, 2)], "x"))
    assert [y for _, y in flat] == [HEIGHT - BOTTOM] * 2
    assert curve([{"step": 1, "x": None}], "x") == ""


def test_long_curves_are_thinned_to_means() -> None:
    points = coordinates(curve([{"step": step, "x": float(step % 2)} for step in range(1, 2 * POINTS + 1)], "x"))
    assert len(points) == POINTS
    assert len({y for _, y in points}) == 1  # each is the mean of a 0 and a 1
    assert len(coordinates(curve([{"step": step, "x": float(step)} for step in range(POINTS + 1)], "x"))) <= POINTS


def test_the_page_holds_all_and_escapes_it(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path, model_version="<&>").model_copy(update={"experiment_id": "a<b>"})
    folder = RunFolder(tmp_path)
    folder.log({"step": 10, "x<y": 1.0, "lr": 2.0})
    for step in (0, 20, 100):
        (tmp_path / f"preview-{step:06d}.png").touch()
    broken = [f"<picture {number}>" for number in range(NAMED + 2)]
    Report(folder, config, lambda: broken).write()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<title>a&lt;b&gt;</title>" in page
    assert "<b>" not in page
    assert page.count("<svg") == 2
    assert 'aria-label="x&lt;y"' in page
    assert re.findall(r"<figcaption>(\d+) updates", page) == ["0", "100", "0", "20", "100"]  # the pair, then all
    assert "<td>&lt;&amp;&gt;</td>" in page
    assert f"{NAMED + 2} left out of the data" in page
    assert page.count("<li>") == NAMED
    assert "and 2 more" in page
    assert not list(tmp_path.glob(".*"))


def test_a_report_without_broken_samples_does_not_speak_of_them(toy: ModuleType, tmp_path: Path) -> None:
    Report(RunFolder(tmp_path), toy.config(tmp_path)).write()
    assert "left out" not in (tmp_path / "report.html").read_text("utf-8")


def test_the_page_reloads_itself_while_the_run_goes_on(toy: ModuleType, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    report = Report(folder, toy.config(tmp_path))
    folder.log({"step": 40, "pictures_per_second": 12.34, "memory_gib": 1.26, "seconds_left": 3900.0})
    report.renew()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f'<meta http-equiv="refresh" content="{RELOAD}">' in page
    assert "40 updates, 12.3 pictures a second, 1.3 GiB of memory at most, 1 h 5 min left" in page
    assert "http://" not in page
    assert "https://" not in page
    (tmp_path / "report.html").unlink()
    report.renew()
    assert not (tmp_path / "report.html").exists()  # it was written a moment ago
    report.write(running=False)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "refresh" not in page
    assert "1.3 GiB of memory at most; not running" in page
