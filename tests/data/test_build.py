from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from littlecascade.data.build import Settings, build
from littlecascade.data.captions import Wording
from littlecascade.data.fit import Fit
from littlecascade.data.outcome import Named, Report
from littlecascade.data.render import Rendering
from littlecascade.data.shards import Limit, Target
from littlecascade.data.sources import find_samples
from littlecascade.data.stream import Example, Lane, StreamConfig, find_shards
from littlecascade.errors import InputError

SMALL = Settings(Rendering(fit=Fit(32)))


def picture(seed: int, width: int = 48, height: int = 36) -> Image.Image:
    """Coloured areas that no other seed has, sharp enough not to count as blurred."""
    areas = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(areas).resize((width, height), Image.Resampling.NEAREST)


def fill(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(f"picture {number}", "utf-8")
    return folder


def run(source: Path, output: Path, settings: Settings = SMALL, shard_size: str | None = None, **options) -> Report:
    return build(str(source), Target.of(output, shard_size), settings, **{"workers": 1, **options})


def stored(report: Report) -> dict[str, Any]:
    return json.loads("".join(report.json()))


def plain(found: Named) -> dict[str, list[tuple[str, str]]]:
    return {kind: list(problems) for kind, problems in found.items()}


def members(path: Path) -> dict[str, bytes]:
    """The files of a tar, read by Python's own reader."""
    with tarfile.open(path, "r:") as archive:
        contents = {info.name: archive.extractfile(info) for info in archive}
    assert all(contents.values())
    with tarfile.open(path, "r:") as archive:
        return {info.name: handle.read() for info in archive if (handle := archive.extractfile(info))}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_a_sample_is_a_picture_its_captions_and_what_is_known_of_it(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    (source / "deep").mkdir(parents=True)
    picture(1, 60, 40).save(source / "deep" / "a.png")
    (source / "deep" / "a.txt").write_text("ein Bär\nein Tier\n", "utf-8")
    (source / "deep" / "a.json").write_text('{"aesthetic_score": 5.5, "width": 1}')
    settings = Settings(Rendering(fit=Fit(20, "width", "square"), format="png"), wording=Wording("[x]"))
    report = run(source, tmp_path / "out.tar", settings)
    found = members(tmp_path / "out.tar")
    assert list(found) == ["000001.png", "000001.txt", "000001.json"]
    assert found["000001.txt"].decode() == "[x], ein Bär\n[x], ein Tier"
    assert json.loads(found["000001.json"]) == {
        "aesthetic_score": 5.5,
        "width": 20,
        "height": 20,
        "original_width": 60,
        "original_height": 40,
        "crop_box": [10, 0, 50, 40],
        "sha256": sha256(found["000001.png"]).hexdigest(),
        "source": "deep/a.png",
        "caption": "[x], ein Bär",
    }
    expected = picture(1, 60, 40).resize((20, 20), Image.Resampling.LANCZOS, box=(10, 0, 50, 40))
    assert Image.open(io.BytesIO(found["000001.png"])).tobytes() == expected.tobytes()
    (sample,) = find_samples(str(tmp_path / "out.tar"))
    assert (sample.captions(), sample.metadata()["width"]) == (["[x], ein Bär", "[x], ein Tier"], 20)
    assert json.loads((tmp_path / "out.report.json").read_text("utf-8")) == stored(report)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *(("jpg", "RGB"), ("jpeg", "CMYK"), ("JPG", "L"), ("png", "RGBA"), ("png", "P"), ("png", "I;16")),
        *(("webp", "RGBA"), ("bmp", "RGB"), ("tif", "CMYK"), ("tiff", "I;16"), ("avif", "RGB")),
    ],
)
def test_every_kind_of_picture_is_read(tmp_path: Path, suffix: str, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture(1).convert("L")).astype(np.uint16) * 257)
    else:
        image = picture(1).convert(mode)
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / f"a.{suffix}")
    report = run(tmp_path / "in", tmp_path / "o.tar", Settings(Rendering(fit=Fit(48), format="png")))
    assert report.written == 1
    made = Image.open(io.BytesIO(members(tmp_path / "o.tar")["000001.png"]))
    expected = picture(1).convert("L").convert("RGB") if mode in ("L", "I;16") else picture(1)
    error = np.abs(np.asarray(made, float) - np.asarray(expected, float)).mean()
    assert error < {"P": 40}.get(mode, 25 if suffix in ("jpg", "jpeg", "JPG", "webp", "avif") else 1)


def test_the_same_pictures_make_the_same_bytes_whoever_does_the_work(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 30)
    run(source, tmp_path / "one", shard_size="7")
    report = run(source, tmp_path / "two", shard_size="7", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert list(contents(tmp_path / "two")) == [f"{number:05}.tar" for number in range(5)]
    assert [shard.samples for shard in report.shards] == [7, 7, 7, 7, 2]
    samples = find_samples(str(tmp_path / "two"))
    assert [sample.captions() for sample in samples] == [[f"picture {number}"] for number in range(30)]
    assert samples[-1].name == "00004.tar/000030.jpg"


def test_shards_of_bytes_are_as_full_as_they_can_be(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 30)
    report = run(source, tmp_path / "out", shard_size="31kb")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert report.written == 30
    assert [shard.bytes for shard in report.shards] == sizes
    assert len(set(sizes[:-1])) == 1
    assert sizes[0] == 30720  # whole records of 10,240 bytes
    assert len(find_samples(str(tmp_path / "out"))) == 30


def test_a_stopped_build_goes_on_with_the_first_shard_that_is_missing(tmp_path: Path) -> None:
    source, output = fill(tmp_path / "in", 12), tmp_path / "out"
    (source / "003.png").write_bytes(b"broken")
    whole = stored(run(source, output, shard_size="3"))
    expected = contents(output)
    journal = output / ".build.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    first = (output / "00000.tar").stat().st_mtime_ns
    for left in (
        "".join(lines[:2]),
        "".join(lines[:2]) + lines[2][:40],
    ):  # a line that was cut short is as good as none
        journal.write_text(left)
        (output / "00003.tar").unlink()
        (output / ".00001.tar.part").write_bytes(b"half")
        report = run(source, output, shard_size="3")
        assert report.kept == 1
        assert stored(report) == whole
        assert contents(output) == expected
        assert (output / "00000.tar").stat().st_mtime_ns == first
        assert not list(output.glob("*.part"))
    (output / "00002.tar").write_bytes(b"damaged since")
    assert run(source, output, shard_size="3").kept == 2
    assert contents(output) == expected
    assert run(source, output, shard_size="3").kept == 4


def test_two_builds_do_not_write_to_one_place(tmp_path: Path) -> None:
    source, output = fill(tmp_path / "in", 3), tmp_path / "out"
    with Target.of(output).held(), pytest.raises(InputError, match=r"Another build is writing '.*out'"):
        run(source, output)
    assert not list(output.iterdir())
    assert run(source, output).written == 3
    assert sorted(path.name for path in output.iterdir()) == [".build.jsonl", "00000.tar", "report.json"]


@pytest.mark.slow
def test_a_killed_build_leaves_whole_shards_only_and_goes_on(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 120)
    output, words = tmp_path / "out", ["data", "build", str(source), "--size", "256", "--shard-size", "8"]
    command = [sys.executable, "-m", "littlecascade", *words, "-o", str(output), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not (output / "00001.tar").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    process.communicate()
    left = contents(output)
    assert 2 <= len(left) < 15
    assert all(len(find_samples(str(output / name))) == 8 for name in left)
    subprocess.run(command, check=True, capture_output=True)
    assert {name: contents(output)[name] for name in left} == left
    run(source, tmp_path / "whole", Settings(Rendering(fit=Fit(256))), shard_size="8")
    assert contents(output) == contents(tmp_path / "whole")


def test_other_settings_and_another_folder_are_told(tmp_path: Path) -> None:
    source, output = fill(tmp_path / "in", 3), tmp_path / "out.tar"
    run(source, output)
    with pytest.raises(InputError, match=r"begun otherwise \(size was 32 and is 16\).*--overwrite"):
        run(source, output, Settings(Rendering(fit=Fit(16))))
    picture(9).save(source / "009.png")
    with pytest.raises(InputError, match=r"in' has changed: 3 pictures then, 4 now"):
        run(source, output)
    assert run(source, output, overwrite=True).written == 4
    (source / "009.txt").write_text("now with a caption")
    with pytest.raises(InputError, match="has changed"):
        run(source, output)


def test_what_others_wrote_is_not_touched(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    for path in (tmp_path / "out.tar", tmp_path / "out" / "00000.tar", tmp_path / "out" / "00007.tar"):
        path.write_bytes(b"precious")
    for output in (tmp_path / "out.tar", tmp_path / "out"):
        with pytest.raises(InputError, match="is there already"):
            run(source, output)
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "out" / "00007.tar").read_bytes() == b"precious"
    run(source, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00000.tar"]


def test_a_result_inside_its_own_folder_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fill(tmp_path / "in", 4)
    monkeypatch.chdir(source)
    assert run(source, Path("all.tar")).written == 4
    assert run(source, Path("all.tar")).kept == 1
    for path in source.glob("*all.*"):
        path.unlink()
    assert run(source, source / "shards", shard_size="3").written == 4
    assert run(source, source / "shards", shard_size="3").kept == 2


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 4)
    (source / "000.png").write_bytes((source / "000.png").read_bytes()[:60])
    (source / "001.png").write_bytes(b"")
    picture(2, 12, 36).save(source / "002.png")
    soft = picture(7, 200, 150).filter(ImageFilter.GaussianBlur(9))
    soft.save(source / "soft.png")
    settings = Settings(Rendering(fit=Fit(200), smallest=20))
    report = run(source, tmp_path / "a.tar", settings)
    assert report.written == 2
    assert {kind: [name for name, _ in found] for kind, found in report.left_out.items()} == {
        "damaged": ["000.png", "001.png"],
        "small": ["002.png"],
    }
    assert list(report.left_out["small"]) == [("002.png", "12x36")]
    assert list(report.notes["enlarged"]) == [("003.png", "48x36 to 200x150")]
    assert [name for name, _ in report.notes["blurred"]] == ["soft.png"]
    assert list(report.notes["uncaptioned"]) == [("soft.png", "")]
    dropped = run(source, tmp_path / "b.tar", Settings(Rendering(fit=Fit(200), smallest=20, drop_blurred=True)))
    assert dropped.written == 1
    assert [name for name, _ in dropped.left_out["blurred"]] == ["soft.png"]


def test_files_beside_a_picture_that_make_no_sense_do_not_end_a_build(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 4)
    (source / "000.json").write_text("[" * 100_000)
    (source / "001.json").write_text("{")
    (source / "002.json").write_text('{"title": "\\ud800", "caption": "unused"}')
    (source / "003.txt").write_bytes(b"caf\xe9")
    report = run(source, tmp_path / "o.tar")
    assert [name for name, _ in report.notes["unreadable"]] == ["000.png", "001.png"]
    samples = find_samples(str(tmp_path / "o.tar"))
    assert [sample.captions() for sample in samples] == [[], [], ["picture 2"], ["caf\ufffd"]]
    assert samples[2].metadata()["title"] == "?"


def test_nothing_that_can_be_used_leaves_a_report_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"broken")
    assert run(tmp_path / "in", tmp_path / "o.tar").written == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "o.report.json"]
    picture(1).save(tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", tmp_path / "o.tar").written == 1


def test_of_pictures_that_look_alike_the_largest_is_kept(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 3)
    picture(1).resize((480, 360), Image.Resampling.LANCZOS).save(source / "z-large.jpg")
    picture(1).save(source / "z-same.webp", quality=90)
    reported = run(source, tmp_path / "a.tar")
    assert reported.written == 5
    assert list(reported.copies) == [["001.png", "z-large.jpg", "z-same.webp"]]
    settings = Settings(SMALL.rendering, drop_copies=True)
    report = run(source, tmp_path / "b", settings, shard_size="2")
    assert plain(report.left_out) == {
        "duplicate": [("001.png", "looks like z-large.jpg"), ("z-same.webp", "looks like z-large.jpg")]
    }
    assert list(report.copies) == []
    sources = [sample.metadata()["source"] for sample in find_samples(str(tmp_path / "b"))]
    assert sources == ["000.png", "002.png", "z-large.jpg"]
    assert stored(run(source, tmp_path / "b", settings, shard_size="2")) == stored(report)


def test_plain_areas_of_other_colours_are_no_copies(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, colour in (("a", "red"), ("b", "navy"), ("c", "red"), ("d", "white")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "in" / f"{name}.png")
    assert list(run(tmp_path / "in", tmp_path / "o.tar").copies) == [["a.png", "c.png"]]


def test_captions_of_a_table(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 3)
    (tmp_path / "t.csv").write_text("file,caption\n000.png,zero\n2,x\n002,two\n")
    report = run(source, tmp_path / "o.tar", Settings(SMALL.rendering, captions=str(tmp_path / "t.csv")))
    assert [sample.captions() for sample in find_samples(str(tmp_path / "o.tar"))] == [["zero"], [], ["two"]]
    assert report.unused == ["2"]
    assert list(report.notes["uncaptioned"]) == [("001.png", "")]
    (tmp_path / "t.csv").write_text("file,caption\n000,zero\n")
    with pytest.raises(InputError, match="has changed"):
        run(source, tmp_path / "o.tar", Settings(SMALL.rendering, captions=str(tmp_path / "t.csv")))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"captions": "nmae"}, "Did you mean 'name'?"),
        ({"captions": "model:missing"}, "no model 'missing' here"),
        ({"captions": "missing.csv"}, "no table of captions"),
        ({"rendering": Rendering(format="jpeg")}, "Did you mean 'jpg'?"),
        ({"rendering": Rendering(quality=101)}, "not from 1 to 100"),
        ({"rendering": Rendering(background="whit")}, "'whit' is not a colour"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, values: dict[str, object], said: str) -> None:
    source = fill(tmp_path / "in", 1)
    with pytest.raises(InputError) as caught:
        run(source, tmp_path / "o.tar", Settings(**values))
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("output", "shard_size", "said"),
    [
        ("o.tar", "10", "name a folder for shards of 10"),
        ("in", "x", "A shard of 'x' is none"),
        ("o", "0", "A shard of '0' is none"),
        ("in/000.png", None, "is a file: name a folder"),
    ],
)
def test_mistakes_about_the_place(tmp_path: Path, output: str, shard_size: str | None, said: str) -> None:
    fill(tmp_path / "in", 1)
    with pytest.raises(InputError) as caught:
        Target.of(tmp_path / output, shard_size)
    assert said in str(caught.value)


def test_units_of_shards() -> None:
    assert [Limit.parse(text).bytes for text in ("1b", "2KB", "3 mb", "1GB", "1TB")] == [1, 2e3, 3e6, 1e9, 1e12]


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "JPEG")
    return buffer.getvalue()


def streamed(place: str) -> list[tuple[str, str, bytes]]:
    """Name, caption and picture of what training gets of a place, in order."""
    lane = Lane(StreamConfig(find_shards(place), shuffle=0, epochs=1), 0, 1)
    outcomes = [outcome for outcome, *_ in lane.made(lambda example: example)]
    return [(example.name, example.caption, example.picture) for example in outcomes if isinstance(example, Example)]


def indexed(place: str) -> list[tuple[str, str, bytes]]:
    return [(sample.name, " ".join(sample.captions()), sample.picture.read()) for sample in find_samples(place)]


def test_the_forks_tool_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes into a folder, which it then puts as a whole into a tar inside of it."""
    monkeypatch.chdir(tmp_path)
    Path("output").mkdir()
    for number in (1, 2):
        Path(f"output/{number:03}.jpg").write_bytes(jpeg(number))
        Path(f"output/{number:03}.txt").write_text("Futurism, postapocalyptic, city, desolated")
    with tarfile.open("output/output.tar", "w") as archive:
        archive.add("output", arcname="output")
    samples = find_samples("file:output/output.tar")
    assert [sample.name for sample in samples] == ["output.tar/output/001.jpg", "output.tar/output/002.jpg"]
    assert samples[1].picture.read() == jpeg(2)
    assert samples[1].captions() == ["Futurism, postapocalyptic, city, desolated"]
    stems = [(name.replace(".jpg", ""), *rest) for name, *rest in indexed("file:output/output.tar")]
    assert streamed("file:output/output.tar") == stems


def test_the_official_layout_is_read(tmp_path: Path) -> None:
    """`tar --sort=name -cf dataset.tar dataset/` of 0000.jpg, 0000.txt, and 0000.json for the filters."""
    (tmp_path / "dataset").mkdir()
    for number in range(3):
        stem = tmp_path / "dataset" / f"{number:04}"
        stem.with_suffix(".jpg").write_bytes(jpeg(number))
        stem.with_suffix(".txt").write_text(f"a photo of {number}")
        stem.with_suffix(".json").write_text(json.dumps({"aesthetic_score": 4 + number, "nsfw_probability": 0.001}))
    command = ["tar", "--sort=name", "-cf", "dataset.tar", "dataset/"]
    subprocess.run(command, cwd=tmp_path, check=True)
    samples = find_samples(f"file:{tmp_path / 'dataset.tar'}")
    assert [sample.name for sample in samples] == [f"dataset.tar/dataset/{number:04}.jpg" for number in range(3)]
    assert samples[2].captions() == ["a photo of 2"]
    assert samples[2].metadata() == {"aesthetic_score": 6, "nsfw_probability": 0.001}
    place = f"file:{tmp_path / 'dataset.tar'}"
    assert streamed(place) == [(name.replace(".jpg", ""), *rest) for name, *rest in indexed(place)]


def test_img2dataset_is_read(tmp_path: Path) -> None:
    """Numbered tars of samples whose names begin with their shard's, and for each a parquet table and statistics."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05}.tar", "w") as archive:
            for number in range(2):
                fields = {
                    "key": f"{shard:05}{number:04}",
                    "caption": "a",
                    "status": "success",
                    "width": 48,
                    "height": 36,
                }
                parts = {"jpg": jpeg(number), "txt": b"a caption", "json": json.dumps(fields, indent=4).encode()}
                for suffix, content in parts.items():
                    info = tarfile.TarInfo(f"{shard:05}{number:04}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        (tmp_path / f"{shard:05}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{shard:05}_stats.json").write_text("{}")
    samples = find_samples(str(tmp_path))
    assert [sample.name for sample in samples] == [
        *("00000.tar/000000000.jpg", "00000.tar/000000001.jpg", "00001.tar/000010000.jpg", "00001.tar/000010001.jpg")
    ]
    assert samples[3].captions() == ["a caption"]
    assert samples[3].metadata()["width"] == 48
    assert streamed(str(tmp_path)) == [(name.replace(".jpg", ""), *rest) for name, *rest in indexed(str(tmp_path))]
    assert run(tmp_path, tmp_path / "again.tar").written == 4
