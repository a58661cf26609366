from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.buckets import Buckets, parse_ratios
from littlecascade.data.getters import parse_captions_getter, parse_filters
from littlecascade.data.sources import find_samples
from littlecascade.data.stream import Skip
from littlecascade.data.table import Row, Source
from littlecascade.errors import InputError


def picture(path: Path, width: int, height: int, colour: str = "red", caption: str | None = None, **fields: object):
    Image.new("RGB", (width, height), colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")
    if fields:
        path.with_suffix(".json").write_text(json.dumps(fields), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A square, a wide and a tall picture, one of them without captions, and two that can't be used."""
    data = tmp_path / "data"
    data.mkdir()
    picture(data / "0.png", 64, 64, caption="one\n\n two \n", score=3)
    picture(data / "1.png", 128, 64, caption="wide", score=9)
    picture(data / "2.png", 50, 100, score=9)
    (data / "3.png").write_bytes(b"broken")
    picture(data / "4.png", 64, 64)
    (data / "4.json").write_text("{")
    return data


def open_source(folder: Path, **settings: object) -> Source:
    return Source(str(folder), find_samples(str(folder)), Buckets(64, parse_ratios(["1/1", "2/1"])), **settings)


def kept(source: Source) -> dict[str, Row | Skip]:
    outcomes = [source.cut(number) for number in range(len(source.samples))]
    names = [Path(sample.name).name for sample in source.samples]
    return {name: one if isinstance(one, Skip) else one[0] for name, one in zip(names, outcomes, strict=True)}


def test_rows_say_how_a_picture_was_cut_and_what_can_be_said_of_it(folder: Path) -> None:
    rows = kept(open_source(folder))
    # 64^2 / 2 = 2048: the wide bucket is 90 x 45, rounded down to multiples of 32
    assert rows["0.png"] == Row(0, "0.png", (64, 64), ("one", "two"), {"score": 3}, (64, 64), (0, 0, 64, 64))
    assert rows["1.png"] == Row(1, "1.png", (64, 32), ("wide",), {"score": 9}, (128, 64), (0, 0, 128, 64))
    assert rows["2.png"] == Row(2, "2.png", (32, 64), (), {"score": 9}, (50, 100), (0, 0, 50, 100))
    broken = [rows[name] for name in ("3.png", "4.png")]
    assert [isinstance(skip, Skip) and skip.filtered for skip in broken] == [False, False]
    assert "can't be decoded" in broken[0].reason
    assert "not JSON" in broken[1].reason


def test_a_row_survives_json(folder: Path) -> None:
    row = kept(open_source(folder))["1.png"]
    assert Row.from_json(json.loads(json.dumps(asdict(row)))) == row


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    image = Image.new("RGB", (120, 60), "black")
    image.paste((255, 255, 255), (30, 0, 90, 60))
    image.save(tmp_path / "a.png")
    source = Source("a", find_samples(str(tmp_path)), Buckets(60, multiple=1))
    row, tile = source.cut(0)
    assert row.crop == (30, 0, 90, 60)
    assert np.asarray(tile.pixels).min() == 255


def test_filters_leave_out_and_say_why(folder: Path) -> None:
    rows = kept(open_source(folder, filters=parse_filters(["score", "lambda s: s > 5"])))
    assert rows["0.png"] == Skip("0.png", "it does not pass score: lambda s: s > 5", filtered=True)
    assert isinstance(rows["1.png"], Row)


def test_captions_come_from_where_the_getter_says(folder: Path) -> None:
    def captions(getter: list[str], name: str) -> object:
        row = kept(open_source(folder, caption=parse_captions_getter(getter)))[name]
        return row.reason if isinstance(row, Skip) else row.captions

    assert captions(["txt", "identity"], "0.png") == ("one\n\n two \n",)
    assert captions(["txt", "first_line"], "0.png") == ("one",)
    assert captions(["txt", "identity"], "2.png") == "it has no .txt for its caption"
    assert captions(["json", "'score ' + ('high' if score > 5 else 'low')"], "1.png") == ("score high",)
    with pytest.raises(InputError, match=r"\.caption members .* cache: false"):
        open_source(folder, caption=parse_captions_getter(["caption", "identity"]))


def test_the_random_bucket_follows_from_the_seed(tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / f"{number:02}.png", 64, 64)
    source = open_source(tmp_path, random_ratio=0.5)
    with ThreadPoolExecutor() as pool:
        sizes = [one[0].size for one in source.cut_all(range(40), pool) if not isinstance(one, Skip)]
    assert sizes == [one[0].size for one in map(source.cut, range(40))]
    assert 5 < sum(size != (64, 64) for size in sizes) < 25  # half of them, of which a third drew the square again
    assert sizes != [one[0].size for one in map(replace(source, seed=1).cut, range(40))]


def test_settings_differ_where_the_rows_would(folder: Path) -> None:
    source = open_source(folder)
    before = source.settings
    assert open_source(folder).settings == before
    others = {
        "buckets": replace(source, buckets=Buckets(96)),
        "dataset_filters": replace(source, filters=parse_filters(["score > 5"])),
        "captions_getter": replace(source, caption=parse_captions_getter(["txt", "identity"])),
        "bucketeer_random_ratio": replace(source, random_ratio=0.1),
    }
    for key, other in others.items():
        assert [name for name in before if other.settings[name] != before[name]] == [key]
    (folder / "0.txt").write_text("another")
    assert [name for name, value in open_source(folder).settings.items() if value != before[name]] == ["samples"]
