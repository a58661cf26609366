from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.check import Report, Wanted, check
from littlecascade.data.findings import Kind
from littlecascade.errors import InputError

SQUARE = Wanted(size=64, ratios=("1/1",), tokens=8)


def words(caption: str) -> int:
    """A stand-in for a tokenizer: a token for each word, and the two round them."""
    return len(caption.split()) + 2


def noise(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """A sharp picture that resembles no other."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lay(folder: Path, members: Mapping[str, bytes]) -> str:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def found(report: Report) -> dict[str, list[str]]:
    """`kind: detail` of all findings, by name."""
    names: dict[str, list[str]] = {}
    for finding in report.findings:
        names.setdefault(finding.name, []).append(f"{finding.kind}: {finding.detail}".removesuffix(": "))
    return names


def test_a_clean_folder_has_no_findings(tmp_path: Path) -> None:
    members = {f"{seed}.png": encoded(noise(seed)) for seed in range(5)}
    captions = {f"{seed}.txt": b"a caption\nanother one" for seed in range(5)}
    report = check(lay(tmp_path, members | captions), SQUARE, words)
    assert found(report) == {}
    assert report.clean
    assert [(look.name, look.tokens) for look in report.looks] == [(f"{seed}.png", (4, 4)) for seed in range(5)]


def test_every_kind_of_problem_is_found(tmp_path: Path) -> None:
    whole = encoded(noise(0))
    pictures = {
        "a.png": whole,
        "blurred.png": encoded(Image.new("RGB", (64, 64), "red")),
        "copy.png": whole,
        "cut.png": whole[:-3000],
        "empty.png": b"",
        "like.jpg": encoded(noise(0).resize((128, 128), Image.Resampling.BICUBIC), "JPEG", quality=90),
        "long.png": encoded(noise(1)),
        "mute.png": encoded(noise(2)),
        "none.png": encoded(noise(3)),
        "small.png": encoded(noise(4, 63, 70)),
        "text.png": b"words",
    }
    captions = {f"{Path(name).stem}.txt": b"a caption" for name in pictures}
    captions |= {"long.txt": b"short\none two three four five six seven", "mute.txt": b" \n"}
    del captions["none.txt"]
    report = check(lay(tmp_path, pictures | captions), SQUARE, words)
    assert not report.clean
    assert found(report) == {
        "cut.png": ["damaged: image file is truncated"],
        "empty.png": ["damaged: empty"],
        "text.png": ["damaged: not a picture, or of a kind that can't be read here"],
        "none.png": ["no caption"],
        "mute.png": ["empty caption"],
        "long.png": ["long caption: 9 tokens"],
        "copy.png": ["duplicate: the same file as a.png"],
        "like.jpg": ["look-alike: looks like a.png"],
        "blurred.png": ["blurred: sharpness 0.0, under 20"],
        "small.png": ["too small: 63x70, its bucket is 64x64"],
    }


def test_pictures_that_look_alike_are_no_problem(tmp_path: Path) -> None:
    likeness = noise(0).resize((128, 128), Image.Resampling.BICUBIC)
    members = {"a.png": encoded(noise(0)), "b.jpg": encoded(likeness, "JPEG", quality=90), "a.txt": b"a", "b.txt": b"b"}
    report = check(lay(tmp_path, members), SQUARE, words)
    assert found(report) == {"b.jpg": ["look-alike: looks like a.png"]}
    assert report.clean
    (tmp_path / "c.png").write_bytes(encoded(noise(1)))
    assert not check(str(tmp_path), SQUARE, words).clean


def test_captions_may_stand_in_json(tmp_path: Path) -> None:
    members = {f"{seed}.png": encoded(noise(seed)) for seed in range(7)}
    members |= {
        "0.json": b'{"caption": "one two"}',
        "1.json": b'{"prompt": "one", "text": "one two three"}',
        "2.json": b'{"caption": ""}',
        "3.json": b"{",
        "4.json": b"[" * 100_000,
        "5.json": b'{"caption": "unread"}',
        "6.json": b'{"caption": "half a sign: \\ud83e"}',
        "5.txt": b"\xff\xfeo\0n\0e\0",
    }
    report = check(lay(tmp_path, members), SQUARE, words)
    assert [look.captions for look in report.looks[:3]] == ["one two", "one two three", ""]
    problems = found(report)
    assert problems["2.png"] == ["empty caption"]
    assert problems["3.png"][0].startswith("damaged: 3.png: its .json member is not JSON")
    assert problems["4.png"][0].startswith("damaged: ")
    assert problems["5.png"] == ["damaged: its caption is not UTF-8"]
    assert problems["6.png"][0].startswith("damaged: 'utf-8' codec can't encode")
    assert set(problems) == {f"{seed}.png" for seed in (2, 3, 4, 5, 6)}


def test_members_of_no_sample_are_told(tmp_path: Path) -> None:
    members = {"a.png": encoded(noise(0)), "a.txt": b"a", "A.png": encoded(noise(1)), "A.txt": b"a", "a.jpg": b""}
    members |= {
        "sub/a.png": encoded(noise(2)),
        "sub/a.json": b'{"text": "a"}',
        "b.txt": b"b",
        "._a.png": b"",
        "c.md": b"",
    }
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    report = check(str(tmp_path), SQUARE, words)
    assert [look.name for look in report.looks] == ["x.tar/a.png", "x.tar/A.png", "x.tar/sub/a.png"]
    assert found(report) == {
        "x.tar/A.png": ["name clash: differs from x.tar/a.png in upper and lower case only"],
        "x.tar/a.jpg": ["name clash: has the stem of x.tar/a.png, which is used"],
        "x.tar/b.txt": ["left out: has no picture of its name beside it"],
        "x.tar/._a.png": ["left out: is hidden"],
        "x.tar/c.md": ["left out: is neither a picture nor a caption"],
    }


def test_sizes_are_upright_and_full(tmp_path: Path) -> None:
    """Although JPEG files are decoded smaller: 1200 x 1600 as stored, to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(noise(0, 12, 16).resize((1200, 1600)), "JPEG", exif=exif)
    report = check(lay(tmp_path, {"a.jpg": turned, "a.txt": b"a"}), Wanted(1024, ("4/3",)), words)
    assert report.summary.sizes == {(1600, 1200): 1}
    assert report.of(Kind.SMALL) == []


def test_the_summary_by_hand(tmp_path: Path) -> None:
    """Buckets of 96 pixels: 96 x 96 and, from 2/1, 128 x 64 (135.8 and 67.9 rounded down) and 64 x 128."""
    sizes = [(100, 100), (100, 100), (200, 100), (100, 200), (300, 100)]
    members = {f"{seed}.png": encoded(noise(seed, *size)) for seed, size in enumerate(sizes)}
    members |= {"0.txt": b"one\none two", "1.txt": b"one", "broken.png": b"?"}
    summary = check(lay(tmp_path, members), Wanted(96, ("1/1", "2/1")), words).summary
    assert summary.to_json() == {
        "samples": 6,
        "decoded": 5,
        "sizes": {"100x100": 2, "200x100": 1, "100x200": 1, "300x100": 1},
        "ratios": {"1": 2, "2": 1, "0.5": 1, "3": 1},
        "buckets": {
            "96x96": {"pictures": 2, "area_lost": 0},
            "128x64": {"pictures": 2, "area_lost": round((0 + 1 / 3) / 2, 4)},
            "64x128": {"pictures": 1, "area_lost": 0},
        },
        "area_lost": {
            "to_bucket": round((1 / 3) / 5, 4),
            "to_square": round((0 + 0 + 1 / 2 + 1 / 2 + 2 / 3) / 5, 4),
        },
        "tokens": {"3": 2, "4": 1},
    }


def test_the_report_is_json(tmp_path: Path) -> None:
    report = check(lay(tmp_path, {"a.png": b"?", "b.png": encoded(noise(0))}), SQUARE, words)
    stored = json.loads(json.dumps(report.to_json()))
    assert stored["wanted"] == {"size": 64, "ratios": ["1/1"], "tokens": 8}
    assert [entry["name"] for entry in stored["findings"]["no caption"]] == ["a.png", "b.png"]
    assert stored["findings"]["blurred"] == []


def test_thumbnails_come_in_order_and_are_small(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    members = {f"{place}.png": encoded(Image.new("RGB", (400, 200), colour)) for place, colour in enumerate(colours)}
    thumbnails: list[bytes] = []
    check(lay(tmp_path, members | {"0x.png": b"?"}), SQUARE, words, thumbnails.append)
    assert thumbnails.pop(1) == b""
    opened = [Image.open(io.BytesIO(thumbnail)) for thumbnail in thumbnails]
    assert [image.size for image in opened] == [(160, 80)] * 3
    assert all(
        np.allclose(np.asarray(image)[40, 80], colour, atol=8) for image, colour in zip(opened, colours, strict=True)
    )


def test_a_ratio_that_is_none_is_told_before_the_work() -> None:
    with pytest.raises(InputError, match="is no ratio"):
        Wanted(ratios=("16x9",))
