from __future__ import annotations

import json
from pathlib import Path

import pytest

from littlecascade.cli.main import main

CONFIG = str(Path(__file__).parents[2] / "configs" / "training" / "lora_tiny.yaml")


def test_a_plan_is_a_table_a_verdict_and_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "lora", CONFIG, "--gpu", "RTX 2080 Ti"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "lora tiny, float16, batch 16, 128 px, on RTX 2080 Ti"
    assert sum(line.startswith(">") for line in lines) == 1  # the phase that takes the most
    phases = [line[2:].split("  ")[0] for line in lines[3:10]]
    assert phases == [
        *("filling the cache", "loading", "first update", "later updates", "preview", "checkpoint", "export")
    ]
    assert any(line.startswith("fits: about") for line in lines)
    assert any(line.startswith("time: roughly") and "estimate" in line for line in lines)


def test_a_plan_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "lora", CONFIG, "--gpu", "6GB,ampere", "--json", "--set", "image_size=64"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["memory"] < 6 * 2**30
    assert found["peak"] == max(phase["total"] for phase in found["phases"].values())
    for phase in found["phases"].values():
        assert phase["total"] == sum(size for part, size in phase.items() if part != "total")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora", CONFIG, "--gpu", "RTX 2080 Tie"], "Did you mean 'RTX 2080 Ti'"),
        (["lorra", CONFIG, "--gpu", "8GB"], "Did you mean 'lora'"),
    ],
)
def test_mistakes_are_told_before_anything_is_planned(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err
