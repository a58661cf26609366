from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.data import cache, table
from littlecascade.data.buckets import Buckets, parse_ratios
from littlecascade.data.cache import PIXELS, Cache, Column, fill
from littlecascade.data.getters import parse_filters
from littlecascade.data.sources import find_samples
from littlecascade.data.table import Source
from littlecascade.errors import InputError

SIZES = {"0": (32, 32), "1": (64, 32), "2": (32, 32), "3": (64, 32), "4": (32, 32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of two shapes, each of one grey (its number times ten), and one that is broken."""
    data = tmp_path / "data"
    data.mkdir()
    for name, (width, height) in SIZES.items():
        Image.new("RGB", (2 * width, 2 * height), (10 * int(name),) * 3).save(data / f"{name}.png")
        (data / f"{name}.txt").write_text(f"number {name}\n")
        (data / f"{name}.json").write_text(json.dumps({"number": int(name)}))
    (data / "9.png").write_bytes(b"broken")
    return data


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PART", 2)


def open_source(folder: Path, **settings: object) -> Source:
    buckets = Buckets(46, parse_ratios(["1/1", "2/1"]))  # 32 x 32, 32 x 65 and 65 x 32, rounded down
    return Source(str(folder), find_samples(str(folder)), buckets, **settings)


class Means:
    """A column that counts how many pictures it is given."""

    def __init__(self, factor: float = 255.0) -> None:
        self.count, self.factor = 0, factor

    def __call__(self, pixels: Tensor) -> Tensor:
        self.count += len(pixels)
        return pixels.mean((2, 3)) * self.factor

    def column(self, key: str = "") -> Column:
        return Column("mean", key, self)


def test_columns_belong_to_their_rows_whatever_their_size(folder: Path, tmp_path: Path) -> None:
    kept = Cache(open_source(folder), [PIXELS, Means().column()], tmp_path / "cache")
    assert [row.name for row in kept.rows] == [f"{name}.png" for name in SIZES]
    assert kept.column("mean", [3, 1]).round().tolist() == [[30.0] * 3, [10.0] * 3]
    for number, (name, _) in enumerate(SIZES.items()):
        pixels = kept.column("pixels", [number])
        width, height = kept.rows[number].size
        assert pixels.shape == (1, 3, height, width)
        assert torch.allclose(pixels, torch.tensor(10 * int(name) / 255))
    assert sorted(kept.groups().values()) == [[0, 2, 4], [1, 3]]
    assert len(kept.broken) == 1
    assert kept.broken[0].startswith("9.png: it can't be decoded")


def test_what_is_there_is_not_computed_again(folder: Path, tmp_path: Path) -> None:
    means, other = Means(), Means(1.0)
    Cache(open_source(folder), [means.column()], tmp_path / "cache")
    assert means.count == 5
    Cache(open_source(folder), [means.column()], tmp_path / "cache")
    assert means.count == 5
    kept = Cache(open_source(folder), [other.column("another network")], tmp_path / "cache")
    assert (means.count, other.count) == (5, 5)
    assert kept.column("mean", [4]).max() < 1


def test_a_column_that_is_added_is_made_of_the_same_rows(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    Cache(source, [PIXELS], tmp_path / "cache")
    means = Means()
    kept = Cache(source, [PIXELS, means.column()], tmp_path / "cache")
    expected = [float(kept.column("pixels", [row]).mean() * 255) for row in range(5)]
    assert kept.column("mean", [0, 2])[:, 0].tolist() == pytest.approx([expected[0], expected[2]], abs=0.02)
    assert kept.column("mean", [1, 3])[:, 0].tolist() == pytest.approx([expected[1], expected[3]], abs=0.02)


def test_processes_share_the_parts_and_the_last_makes_what_is_missing(folder: Path, tmp_path: Path) -> None:
    source, root, means = open_source(folder), tmp_path / "cache", [Means(), Means(), Means()]
    assert source.parts == 3
    assert fill(source, [means[0].column()], root, rank=0, world_size=2) == 2
    assert fill(source, [means[1].column()], root, rank=1, world_size=2) == 1
    assert [one.count for one in means] == [3, 2, 0]
    assert fill(source, [means[2].column()], root) == 0
    (root / next(root.glob("mean-*")).name / "00001.safetensors").unlink()
    assert len(Cache(source, [means[2].column()], root)) == 5
    assert means[2].count == 2


def test_a_crash_leaves_whole_parts_only_and_the_next_run_goes_on(folder: Path, tmp_path: Path) -> None:
    source, root, means = open_source(folder), tmp_path / "cache", Means()

    def crash(pixels: Tensor) -> Tensor:
        if means.count >= 2:
            raise KeyboardInterrupt
        return means(pixels)

    with pytest.raises(KeyboardInterrupt):
        Cache(source, [Column("mean", "", crash)], root)
    assert sorted(path.name for path in root.rglob("0*")) == ["00000.json", "00000.safetensors"]
    assert not list(root.rglob(".*"))
    Cache(source, [means.column()], root)
    assert means.count == 5


def test_data_that_changed_are_cached_anew_and_it_says_so(folder: Path, tmp_path: Path, capsys) -> None:
    root, means = tmp_path / "cache", Means()
    Cache(open_source(folder), [means.column()], root)
    assert "out of date" not in capsys.readouterr().err
    Image.new("RGB", (64, 64), "white").save(folder / "0.png")
    os.utime(folder / "0.png", ns=(1, 1))
    kept = Cache(open_source(folder), [means.column()], root)
    assert kept.column("mean", [0]).tolist() == [[255.0] * 3]
    assert "is out of date, since its samples changed" in capsys.readouterr().err
    Cache(replace(open_source(folder), buckets=Buckets(64)), [means.column()], root)
    assert "is out of date, since its buckets changed" in capsys.readouterr().err


def test_filtered_samples_are_counted_by_reason(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder, filters=parse_filters(["number > 1"]))
    kept = Cache(source, [PIXELS], tmp_path / "cache")
    assert [row.fields["number"] for row in kept.rows] == [2, 3, 4]
    assert kept.filtered == {"it does not pass number > 1": 2, "there is no field 'number'": 1}


def test_nothing_that_can_be_used_is_an_error_with_the_reasons(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder, filters=parse_filters(["number > 100"]))
    with pytest.raises(InputError, match=r"None of the 6 samples can be used: 5 times: it does not pass number > 100"):
        Cache(source, [PIXELS], tmp_path / "cache")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"None of the 1 .* 1 can't be read, the first: a\.png"):
        Cache(open_source(tmp_path / "b"), [PIXELS], tmp_path / "cache")


def test_a_disk_that_is_too_small_is_told_after_the_first_part(folder: Path, tmp_path: Path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": cache._RESERVE})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(InputError, match=r"needs about 0\.0 GB more, .* cache: false"):
        Cache(open_source(folder), [PIXELS], tmp_path / "cache")
    assert len(list(tmp_path.glob("cache/pixels-*/*"))) == 1


def test_identity_tells_files_apart_by_name_size_and_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(bytes(300_000))
    second.write_bytes(bytes(300_000))
    one = files.identity([first])
    assert one == files.identity([first]) != files.identity([second])
    first.write_bytes(bytes(299_999) + b"1")
    assert files.identity([first]) != one
    with pytest.raises(InputError, match=r"no file .*Did you mean 'a'"):
        files.identity([tmp_path / "aa"])
