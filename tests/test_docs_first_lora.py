"""docs/first-lora.md, followed to the letter in an empty folder: every command ends well and prints what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from littlecascade.checkpoint import files
from littlecascade.doctor import machine
from littlecascade.doctor.host import Host, Torch
from littlecascade.doctor.nvidia import parse

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "first-lora.md").read_text("utf-8")
MADE = {
    "rex_data/00000.tar",
    "rex.html",
    "runs/rex/report.html",
    "runs/rex/preview-000600.png",
    "runs/rex/export/rex.safetensors",
    "rex.png",
    "rex_weak.png",
    "rex_lora.safetensors",
    "rex_word.safetensors",
}
"""Files that it promises."""


@pytest.mark.slow
def test_it_leads_to_a_lora_that_comfyui_loads(documents: ModuleType, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "examples" / "rex" / "draw.py"), "rex"], cwd=tmp_path, check=True)
    documents.write_files(TEXT, tmp_path)
    commands = list(documents.commands(TEXT))
    assert len(commands) > 10
    for command in commands:
        code, printed = documents.call(command, tmp_path)
        assert code == 0, f"{command.line}: {printed}"
        assert documents.agrees(command.printed, printed), f"{command.line} printed:\n{printed}"
    assert [name for name in sorted(MADE) if not (tmp_path / name).is_file()] == []
    with Image.open(tmp_path / "rex.png") as strong, Image.open(tmp_path / "rex_weak.png") as weak:
        assert strong.size == weak.size
        assert strong.tobytes() != weak.tobytes()
    assert set(files.load(tmp_path / "rex_word.safetensors")) == {"clip_g"}
    named = files.load(tmp_path / "rex_lora.safetensors")
    assert any(name.endswith("attn.to_q.lora_up.weight") for name in named)


def test_every_file_that_is_promised_is_named() -> None:
    assert [name for name in MADE if Path(name).name not in TEXT and not re.search(r"preview|00000", name)] == []


def test_the_doctor_says_so_of_such_a_machine() -> None:
    """Windows, a 2080 Ti, and the torch that pip installs there: the facts as data, and the lines that come of them."""
    (shown,) = re.findall(r"^<!-- doctor -->\n```\n\$ littlecascade doctor\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    python = r"C:\littlecascade\.venv\Scripts\python.exe"
    host = Host(
        system="Windows",
        machine="AMD64",
        python=(3, 12, 4),
        executable=python,
        torch=Torch("2.13.0+cpu"),
        cards=tuple(parse("NVIDIA GeForce RTX 2080 Ti, 581.29, 11264, 10752, 7.5")),
    )
    checks: list[Callable] = [machine.python, machine.cards, machine.torch]
    lines = [line for check in checks for line in check(host)]
    said = [line.strip() for line in shown.splitlines()]
    for line, subject in zip(lines, ("python", "gpu", "torch"), strict=True):
        assert f"{line.level:5} {subject:10} {line.text}" in said
    assert f"-> {lines[-1].remedy.rstrip('.')}" in said
