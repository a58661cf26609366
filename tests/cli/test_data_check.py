from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade.cli import data_check
from littlecascade.cli.parser import Parser
from littlecascade.errors import InputError


def run(*words: str) -> int:
    """One command line of the two, without the `data` before it."""
    parser = Parser()
    actions = parser.add_subparsers(dest="action", parser_class=Parser)
    data_check.add_check(actions)
    data_check.add_show(actions)
    args = parser.parse_args(words)
    return {"check": data_check.run_check, "show": data_check.run_show}[args.action](args)


@pytest.fixture
def pictures(here: Path) -> Path:
    """Three sound pictures of 64 pixels with captions."""
    folder = here / "pictures"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text("a cat")
    return folder


def test_a_sound_data_set(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "pictures", "--size", "64", "--ratios", "1/1") == 0
    out = capsys.readouterr().out
    assert out.startswith("3 samples, 0 of them can't be decoded\n")
    assert re.search(r"^sizes +64x64 \(3\)$", out, re.MULTILINE)
    assert out.endswith("\nno problems\n")


def test_problems_are_shown_and_stored(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "1.png").write_bytes(b"?")
    (pictures / "2.txt").unlink()
    assert run("check", "pictures", "--size", "64", "--ratios", "1/1", "--json", "report.json") == 1
    out = capsys.readouterr().out
    assert out.startswith("3 samples, 1 of them can't be decoded\n")
    assert re.search(r"^damaged \(1\) +1\.png: not a picture, ", out, re.MULTILINE)
    assert re.search(r"^no caption \(1\) +2\.png$", out, re.MULTILINE)
    findings = json.loads(Path("report.json").read_text("utf-8"))["findings"]
    assert {kind: [f["name"] for f in found] for kind, found in findings.items() if found} == {
        "damaged": ["1.png"],
        "no caption": ["2.png"],
    }
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["pictures", "report.json"]


def test_many_problems_stay_on_one_screen(pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(1000):
        (pictures / f"no-{number:03}.png").write_bytes(b"?")
    assert run("check", "pictures") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    [captions] = [line for line in lines if line.startswith("no caption (1,000)")]
    shown = len(re.findall(r"no-\d{3}\.png", captions))
    assert captions.endswith(f"; {1000 - shown:,} more")


def test_tokens_are_counted_with_the_shipped_tokenizer(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cat cat ...`: one token each in every CLIP vocabulary that knows cats, and two round them."""
    (pictures / "0.txt").write_text(" ".join(["cat"] * 76))
    assert run("check", "pictures", "--size", "64", "--ratios", "1/1") == 1
    assert re.search(r"^long caption \(1\) +0\.png: 78 tokens$", capsys.readouterr().out, re.MULTILINE)
    assert run("check", "pictures", "--size", "64", "--ratios", "1/1", "--tokens", "78") == 0


def test_any_name_can_be_printed(pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    (pictures / "猫\x1b[31m.png").write_bytes(b"?")
    written = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", written)
    assert run("check", "pictures") == 1
    written.seek(0)
    assert "damaged (1)            \\u732b\\x1b[31m.png: not a picture" in written.read()


def test_show_writes_a_page(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "1.png").write_bytes(b"?")
    assert run("show", "pictures", "-o", "page.html") == 0
    assert capsys.readouterr().out == "page.html\n"
    page = Path("page.html").read_text("utf-8")
    assert "<title>pictures</title>" in page
    assert page.count("\n/9j/") == 2  # how JPEG files begin in Base64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check", "picture"), "Did you mean 'pictures'?"),
        (("check", "pictures/0.txt"), "No picture in 'pictures/0.txt'"),
        (("check", "pictures", "--ratios", "16x9"), "'16x9' is no ratio"),
        (("check", "pictures", "--size", "0"), "'0' is not a whole number from 1"),
        (("check", "pictures", "--json", "report.txt"), "must end in .json, such as report.json"),
        (("check", "pictures", "--json", "no/report.json"), "there is no folder 'no'"),
        (("check", "pictures", "--tokenizer", "pictures"), "No tokenizer in pictures"),
        (("show", "pictures", "-o", "pictures/0.png"), "must end in .html, such as 0.html"),
    ],
)
def test_mistakes_are_told(pictures: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as error:
        run(*words)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["pictures"]
