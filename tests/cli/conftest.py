"""Whole command lines in this process, with the shipped weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from littlecascade.cli.main import main

FAST = ("--steps", "1", "--decoder-steps", "1")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def draw(capsys: pytest.CaptureFixture[str]):
    """Runs a command that has to succeed, in as few steps as can be, and returns the paths that it prints."""

    def run(*words: str) -> list[str]:
        code = main([*words, *(("--decoder-steps", "1") if words[0] == "reconstruct" else FAST)])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out.splitlines()

    return run


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]):
    """Runs a command that has to fail, and returns the one line that it prints, without its beginning."""

    def run(*words: str, code: int = 2) -> str:
        assert main(list(words)) == code
        err = capsys.readouterr().err
        assert err.startswith("littlecascade: ")
        assert err.count("\n") == 1
        return err.removeprefix("littlecascade: ").strip()

    return run


@pytest.fixture
def disc(here: Path) -> str:
    """A picture file: a red disc on white."""
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 84, 84), "red")
    image.save(here / "disc.png")
    return "disc.png"
