"""Runs that are fitted to a time, on a clock that the tests turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from littlecascade.checkpoint import files
from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig
from littlecascade.training.optim.schedule import lr_scale
from littlecascade.training.runstate import Checkpoint, RunFolder
from littlecascade.training.timetable import LAST, Timetable


@dataclass
class Clock:
    """seconds: that an update takes, by its number."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def drive(timetable: Timetable, clock: Clock, step: int, seconds: Callable[[int], float]) -> int:
    """Make updates as the loop does, and return how many there are at the end."""
    while step < timetable.total(step) and not timetable.up:
        clock.now += seconds(step)
        step += 1
        timetable.tick(step)
    return step


@pytest.fixture
def config(toy: ModuleType, tmp_path: Path) -> Callable[..., RunConfig]:
    return lambda **values: toy.config(tmp_path, updates=100_000, **values)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[int], None]:
    def write(step: int) -> None:
        RunFolder(tmp_path / "toy").save(Checkpoint(step, 0, {"x": torch.zeros(1)}))

    return write


def open_timetable(config: RunConfig, clock: Clock) -> Timetable:
    return Timetable(RunFolder(config.folder), config, clock)


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        (lambda step: 1.0, 600),
        (lambda step: 30.0 if step == 0 else 1.0, 571),  # the first one does not count as a measure
        (lambda step: 1.0 if step < 250 else 2.0, 425),  # another program wants the machine, too
        (lambda step: 1.0 if step < 250 else 0.5, 950),  # it is gone
        (lambda step: 3.0 if step % 50 == 49 else 1.0, 578),  # checkpoints and previews: 11 x 52 s + 28
    ],
)
def test_the_last_update_comes_when_the_time_is_up(
    config: Callable[..., RunConfig], seconds: Callable[[int], float], most: int
) -> None:
    clock = Clock()
    timetable = open_timetable(config(), clock)
    timetable.begin(0, minutes=10)
    step = drive(timetable, clock, 0, seconds)
    assert timetable.total(step) == step
    assert most - LAST <= step <= most
    assert 1000 + 600 - 2 * LAST <= clock.now <= 1000 + 600 + 3
    assert lr_scale(step - 1, config(lr_schedule="linear"), timetable.total(step - 1)) <= 0.025


def test_a_sudden_stop_of_speed_near_the_end_ends_the_run_in_time(config: Callable[..., RunConfig]) -> None:
    clock = Clock()
    timetable = open_timetable(config(), clock)
    timetable.begin(0, minutes=10)
    step = drive(timetable, clock, 0, lambda step: 1.0 if step < 590 else 100.0)
    assert timetable.total(step) == step
    assert clock.now <= 1000 + 600 + 100


def test_time_for_the_last_preview_and_checkpoint_is_left(config: Callable[..., RunConfig]) -> None:
    clock = Clock()
    timetable = open_timetable(config(), clock)
    timetable.begin(0, minutes=10)
    for name in ("preview", "save"):
        with timetable.apart(name):
            clock.now += 30
    assert drive(timetable, clock, 0, lambda step: 1.0) == 600 - 60 - 60


def test_time_before_the_first_update_counts(config: Callable[..., RunConfig]) -> None:
    clock = Clock()
    timetable = open_timetable(config(), clock)
    timetable.begin(0, minutes=10, since=700.0)
    assert drive(timetable, clock, 0, lambda step: 1.0) == 300


def test_no_more_updates_than_the_configuration_has(
    config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    timetable = open_timetable(config().model_copy(update={"updates": 200}), clock)
    timetable.begin(0, minutes=10)
    assert drive(timetable, clock, 0, lambda step: 1.0) == 200
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "time:" in line]
    assert line == "time: all 200 updates fit into 10 min: they take about 3 min 9 s more"


def test_what_fits_is_told_in_one_line(config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    timetable = open_timetable(config(), clock)
    timetable.begin(0, minutes=10)
    drive(timetable, clock, 0, lambda step: 2.0)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "time:" in line]
    assert line == "time: 300 of 100,000 updates fit into 10 min, 2 s each: the run ends with them"


def test_the_same_time_again_goes_on_for_as_long(config: Callable[..., RunConfig], save: Callable[..., None]) -> None:
    clock = Clock()
    for end in (600, 1200):
        timetable = open_timetable(config(), clock)
        timetable.begin(end - 600, minutes=10)
        assert drive(timetable, clock, end - 600, lambda step: 1.0) == end
        save(end)


def test_max_hours_are_those_of_the_whole_run(config: Callable[..., RunConfig], save: Callable[..., None]) -> None:
    clock = Clock()
    own = config(max_hours=0.25)
    timetable = open_timetable(own, clock)
    timetable.begin(0)
    for step in range(1, 301):  # stopped after a third
        clock.now += 1.0
        timetable.tick(step)
    save(300)
    timetable.record()
    clock.now += 10_000  # the machine was off
    timetable = open_timetable(own, clock)
    timetable.begin(300)
    assert drive(timetable, clock, 300, lambda step: 1.0) == 900
    save(900)
    timetable.record()
    timetable = open_timetable(own, clock)
    timetable.begin(900)
    assert drive(timetable, clock, 900, lambda step: 1.0) == 900  # done
    timetable = open_timetable(config(max_hours=0.5), clock)
    timetable.begin(900)
    assert drive(timetable, clock, 900, lambda step: 1.0) == 1800


def test_a_run_that_goes_on_without_a_time_keeps_its_updates(
    config: Callable[..., RunConfig], save: Callable[..., None]
) -> None:
    clock = Clock()
    timetable = open_timetable(config(), clock)
    timetable.begin(0, minutes=10)
    drive(timetable, clock, 0, lambda step: 1.0 if step < 100 else 1.1)
    known = [timetable.total(step) for step in range(600)]
    assert len(set(known)) > 2
    save(40)
    again = open_timetable(config(), clock)
    again.begin(40)
    assert [again.total(step) for step in range(600)] == known
    other = open_timetable(config().model_copy(update={"updates": 700}), clock)  # who changes their number means it
    other.begin(40)
    assert {other.total(step) for step in range(600)} == {700}


def test_a_plan_that_can_not_be_read_is_named(config: Callable[..., RunConfig], save: Callable[..., None]) -> None:
    save(1)
    (config().folder / "timetable.json").write_text(json.dumps({"updates": 3}), "utf-8")
    with pytest.raises(InputError, match=r"timetable\.json.*delete it"):
        open_timetable(config(), Clock())


def test_a_killed_run_repeats_what_fitted(toy: ModuleType, tmp_path: Path) -> None:
    """A minute of updates of a second each; then all of them again from the first checkpoint, with what was planned."""
    config = toy.config(tmp_path, updates=10**6, save_every=20, backup_every=20, lr_schedule="cosine")
    folder = RunFolder(config.folder)
    folder.open({})
    task = toy.ToyTask(config)
    trainer = toy.Trainer(task, config, folder)
    trainer.timetable = Timetable(folder, config, lambda: float(task.calls))
    assert (trainer.run(minutes=1), trainer.step) == (True, 60)
    state = files.load(folder.state_path)
    (folder.folder / "backup-000020.safetensors").replace(folder.state_path)
    again = toy.Trainer(toy.ToyTask(config), config, folder)
    assert (again.step, again.run(), again.step) == (20, True, 60)
    ends = files.load(folder.state_path)
    assert [name for name in state if not torch.equal(state[name], ends[name])] == []
