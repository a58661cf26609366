"""Runs that are killed again and again, in processes of their own, end like one that was left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from littlecascade.checkpoint import files

KILLS = 10
"""Of each kind of run."""

OWN: dict[str, dict[str, Any]] = {
    "c": {"dropout": 0.1, "ema_iters": 2},
    "lora": {"rank": 2, "lora_alpha": 2, "train_tokens": [["[thing]", "^square</w>"], ["^red", None]]},
}
SETTINGS = {"updates": 12, "save_every": 1, "backup_every": 5, "preview_every": 6, "experiment_id": "run"}


class Run:
    """A run of the command line in a folder of its own, with a cache of its own."""

    def __init__(self, kind: str, values: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        self.kind, self.config, self.folder = kind, folder / "run.yaml", folder / "out" / "run"
        self.config.write_text(yaml.safe_dump(values | SETTINGS | {"output_path": str(folder / "out")}), "utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "littlecascade", "train", self.kind, str(self.config)]
        with (self.config.parent / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def finish(self) -> None:
        process = self.start()
        assert process.wait() == 0, (self.config.parent / "log.txt").read_text("utf-8")

    def interrupt(self, now: Callable[[], bool]) -> bool:
        """Start or go on, and kill the process as soon as `now`. False if it was done first."""
        process = self.start()
        while process.poll() is None:
            if now():
                process.kill()
                break
            time.sleep(0.001)
        code = process.wait()
        done = code == 0
        assert done or now(), (self.config.parent / "log.txt").read_text("utf-8")
        return not done

    def written(self) -> dict[str, bytes]:
        """What there is to compare, and what should not be left behind."""
        paths = [*self.folder.glob("export/*"), *self.folder.glob("preview-*.png"), *self.folder.glob("**/.*")]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    def state(self, name: str = "state") -> dict[str, torch.Tensor]:
        return files.load(self.folder / f"{name}.safetensors")


def moment(run: Run, life: float, rng: random.Random) -> Callable[[], bool]:
    """Says when a moment has come: any in a whole run's life, or while one of its checkpoints is being written."""
    if rng.random() < 0.6:
        end = time.monotonic() + rng.uniform(0, life)
        return lambda: time.monotonic() >= end
    before, wanted = set(run.folder.glob(".state*")), rng.randint(1, 4)
    seen: set[Path] = set()

    def now() -> bool:
        seen.update(set(run.folder.glob(".state*")) - before)
        return len(seen) >= wanted

    return now


def check(run: Run, whole: Run) -> None:
    assert run.written() == whole.written()
    for name in ("state", "backup-000005", "backup-000010"):
        states = run.state(name), whole.state(name)
        assert states[0].keys() == states[1].keys()
        assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(OWN))
def test_runs_that_are_killed_end_like_one_that_was_not(
    made_up: dict[str, dict[str, Any]], stage_c_file: Path, tmp_path: Path, kind: str
) -> None:
    values = made_up["c"] | OWN[kind]
    if kind == "lora":
        values["generator_checkpoint_path"] = str(stage_c_file)
    whole = Run(kind, values, tmp_path / "whole")
    began = time.monotonic()
    whole.finish()
    life, rng, kills, runs = time.monotonic() - began, random.Random(kind), 0, 0
    while kills < KILLS:
        run, going = Run(kind, values, tmp_path / f"killed-{runs}"), True
        runs += 1
        while going and kills < KILLS:
            going = run.interrupt(moment(run, life, rng))
            kills += going
        if going:
            run.finish()
        check(run, whole)
    trained = {"c": "ema.stage_c.clf.1.weight", "lora": "ema.tokens.change"}
    assert whole.state()[trained[kind]].abs().max() > 0
