from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.pictures import to_rgb
from littlecascade.data.sources import Member, Sample, find_samples, scan_tar
from littlecascade.data.tars import Entry, Problem
from littlecascade.errors import InputError


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_tar_is_read_in_place(tmp_path: Path) -> None:
    shard = write_tar(
        tmp_path / "one.tar",
        {"b.png": b"B", "b.txt": "ä b\n\n  c \n".encode(), "a.JPG": b"AA", "a.json": b'{"n": 1}', "alone.txt": b"x"},
    )
    first, second = find_samples(str(shard))
    assert (first.name, first.picture.read(), first.captions(), first.metadata()) == (
        "one.tar/b.png",
        b"B",
        ["ä b", "c"],
        {},
    )
    assert (second.picture.read(), second.captions(), second.metadata()) == (b"AA", [], {"n": 1})
    assert shard.read_bytes()[second.picture.offset :][: second.picture.size] == b"AA"


def test_a_folder_holds_loose_pictures_at_any_depth_and_shards(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.webp").write_bytes(b"X")
    (tmp_path / "deep" / "x.txt").write_text("an x")
    (tmp_path / "deep" / "._x.webp").write_bytes(b"resource fork")
    write_tar(tmp_path / "s.tar", {"y.png": b"Y"})
    samples = find_samples(str(tmp_path))
    assert [sample.name for sample in samples] == ["deep/x.webp", "s.tar/y.png"]
    assert samples[0].captions() == ["an x"]


def test_globs_lists_and_prefixes_name_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train-1", "train-0", "test-0"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}.png": b"."})
    expected = ["train-0.tar/train-0.png", "train-1.tar/train-1.png"]
    by_list = [str(tmp_path / "train-0.tar"), f"file:{tmp_path / 'train-1.tar'}"]
    assert [sample.name for sample in find_samples(str(tmp_path / "train-*.tar"))] == expected
    assert [sample.name for sample in find_samples(by_list)] == expected
    monkeypatch.chdir(tmp_path)
    assert [sample.name for sample in find_samples("file:train-?.tar")] == expected


def test_a_missing_place_names_the_nearest(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", {"a.png": b"."})
    with pytest.raises(InputError, match=r"looked for .*train-00\.tar\. Did you mean 'train-000\.tar'\?"):
        find_samples(str(tmp_path / "train-00.tar"))


def test_a_place_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("no picture")
    with pytest.raises(InputError, match="No picture in"):
        find_samples(str(tmp_path))


@pytest.mark.parametrize("kept", [512 + 700, 512 * 4 + 5, 100])
def test_a_tar_that_was_cut_short_is_an_error(tmp_path: Path, kept: int) -> None:
    shard = write_tar(tmp_path / "t.tar", {"a.png": bytes(1000), "b.png": bytes(1000)})
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"t\.tar is (not a whole|cut short)"):
        find_samples(str(shard))


@pytest.mark.parametrize(("text", "said"), [(b"{", "is not JSON"), (b"[1]", "holds a list, not an object")])
def test_fields_that_are_no_object_name_their_sample(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    whole = Member(path, 0, len(text))
    with pytest.raises(InputError, match=f"shard/a.png: its .json member {said}"):
        Sample("shard/a.png", whole, fields=whole).metadata()


def test_what_is_wrong_with_one_member_is_left_out(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "t.tar", {"a.png": b"1", "../b.png": b"2", "/c.png": b"3", "a.txt": b"an a"})
    with tarfile.open(shard, "a") as archive:
        link = tarfile.TarInfo("d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        again = tarfile.TarInfo("a.txt")
        archive.addfile(again)
    assert [(sample.name, sample.captions()) for sample in find_samples(str(shard))] == [("t.tar/a.png", ["an a"])]
    left_out = [item.name for item in scan_tar(shard) if isinstance(item, Problem)]
    assert left_out == ["../b.png", "/c.png", "d.png", "a.txt"]


def test_a_damaged_tar_is_scanned_as_far_as_it_goes(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "t.tar", {"a.png": bytes(1000), "b.png": bytes(1000)})
    shard.write_bytes(shard.read_bytes()[:-8000])
    first, last = scan_tar(shard)
    assert first == Entry("a.png", 512, 1000)
    assert isinstance(last, Problem)
    assert (last.name, last.fatal) == ("b.png", True)
    (missing,) = scan_tar(tmp_path / "none.tar")
    assert isinstance(missing, Problem)
    assert missing.reason == "can't be read: No such file or directory"


def test_names_in_no_encoding_of_this_system(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "t.tar", {"a.png": b""})
    data = bytearray(shard.read_bytes())
    header = tarfile.TarInfo("a.png").tobuf()
    renamed = bytearray(header.replace(b"a.png", b"\xe4.png"))
    total = sum(renamed[:148]) + 8 * 32 + sum(renamed[156:])
    renamed[148:156] = b"%06o\0 " % total
    data[: len(renamed)] = renamed
    shard.write_bytes(data)
    (sample,) = find_samples(str(shard))
    assert sample.name == "t.tar/ä.png"


def test_avif_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.avif")
    (sample,) = find_samples(str(tmp_path))
    with Image.open(io.BytesIO(sample.picture.read())) as opened:
        assert np.abs(np.asarray(to_rgb(opened))[8, 8].astype(int) - [255, 0, 0]).max() < 8
