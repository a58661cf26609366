from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from littlecascade.cli.main import main
from littlecascade.data.sources import find_samples


@pytest.fixture
def photos(here: Path) -> str:
    """A folder with two pictures, each in a half-tone of its own, and a file that is none."""
    (here / "photos").mkdir()
    for name, turned in (("a", False), ("b", True)):
        pattern = Image.linear_gradient("L").resize((90, 60)).point(lambda level: level // 32 % 2 * 255)
        (pattern.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turned else pattern).save(
            here / "photos" / f"{name}.png"
        )
    (here / "photos" / "broken.jpg").write_bytes(b"no picture")
    return "photos"


def captions(place: str) -> list[list[str]]:
    return [sample.captions() for sample in find_samples(place)]


def test_build_says_what_it_wrote_and_what_it_left_out(photos: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "build", photos, "-o", "out.tar", "--size", "60", "--labels", "city, ruins", "--style", "futurism"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"out.tar: 2 pictures, {Path('out.tar').stat().st_size / 1e6:.1f} MB"
    assert lines[1] == "left out: 1 damaged: broken.jpg (not a picture, or of a kind that can't be read here)"
    assert lines[-1] == "report: out.report.json"
    assert captions("out.tar") == [["Futurism, city, ruins"]] * 2
    assert json.loads(Path("out.report.json").read_text())["written"] == 2
    assert main(words) == 0
    assert "(it was there already)" in capsys.readouterr().out
    assert main([*words[:-1], "anime", "--overwrite"]) == 0
    assert captions("out.tar") == [["Anime, city, ruins"]] * 2


def test_build_writes_numbered_shards_of_buckets(photos: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shard-size", "1", "--fit", "bucket", "--size", "128", "--ratios", "3/2", "--format", "webp"]
    assert main(["data", "build", photos, "-o", "shards", *words, "--captions", "name", "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith("shards: 2 pictures in 2 files, ")
    samples = find_samples("shards")
    assert [sample.name for sample in samples] == ["00000.tar/000001.webp", "00001.tar/000002.webp"]
    assert [(fields["width"], fields["height"]) for fields in (sample.metadata() for sample in samples)] == [
        (128, 96)
    ] * 2
    assert captions("shards") == [["a"], ["b"]]


def test_build_of_nothing_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.png").write_bytes(b"broken")
    assert main(["data", "build", ".", "-o", "out/o.tar"]) == 1
    assert capsys.readouterr().out.startswith(f"{Path('out/o.tar')}: 0 pictures")
    assert not Path("out/o.tar").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("photo -o o.tar", "Did you mean 'photos'?"),
        ("photos", "the following arguments are required: -o"),
        ("photos -o o.tar --style Anmie", "Did you mean 'Anime'?"),
        ("photos -o o.tar --size 0", "whole number from 1"),
        ("photos -o o.tar --fit hieght", "There is no fit 'hieght'."),
        ("photos -o o.tar --crop centre", "Did you mean 'center'?"),
        ("photos -o o.tar --crop none --fit bucket", "crop by center or smart"),
        ("photos -o o.tar --ratios 1/1", "add --fit bucket"),
        ("photos -o o.tar --resample lanczo", "Did you mean 'lanczos'?"),
        ("photos -o o.tar --format jpeg", "Did you mean 'jpg'?"),
        ("photos -o o.tar --quality 101", "not from 1 to 100"),
        ("photos -o o.tar --background wite", "'wite' is not a colour"),
        ("photos -o o.tar --captions sidecars", "Did you mean 'sidecar'?"),
        ("photos -o o.tar --shard-size 10", "name a folder for shards of 10"),
        ("photos -o o --shard-size ten", "A shard of 'ten' is none"),
        ("photos -o o.tar --ask", "--ask needs a terminal"),
    ],
)
def test_mistakes_are_one_line(photos: str, words: str, said: str, fail) -> None:
    assert said in fail("data", "build", *words.split())
    assert [path.name for path in Path().iterdir()] == [photos]


def test_ask_asks_for_what_was_not_given(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["-3", "30", "square", "5", "2", "city,, ruins", "24"])
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    assert main(["data", "build", photos, "-o", "out.tar", "--ask"]) == 0
    assert [question.partition(" [")[0] for question in asked] == [
        *("Width in pixels", "Width in pixels", "Number or name", "Number or name", "Number or name"),
        *("Labels for all pictures, with commas between them", "Number or name"),
    ]
    settings = json.loads(Path("out.report.json").read_text())["settings"]
    assert (settings["size"], settings["crop"], settings["resample"]) == (30, "square", "bicubic")
    assert captions("out.tar") == [["Dada, city, ruins"]] * 2


def test_ask_takes_empty_answers_for_the_usual(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert main(["data", "build", photos, "-o", "out.tar", "--ask", "--style", "photo"]) == 0
    settings = json.loads(Path("out.report.json").read_text())["settings"]
    assert (settings["size"], settings["crop"], settings["resample"]) == (512, "none", "lanczos")
    assert captions("out.tar") == [["Photo"]] * 2
