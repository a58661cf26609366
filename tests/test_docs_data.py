"""docs/data.md: its commands are run on photographs as a phone writes them, and say what it says.

`<!-- test -->` on the line before a fenced block marks it. Counts of bytes are not compared: encoders differ.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from littlecascade.cli.main import main

DOCS = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
MARKED = re.findall(r"^<!-- test -->\n```\n(.*?)^```$", DOCS, flags=re.MULTILINE | re.DOTALL)
ORIENTATION, TURNED = 0x0112, 6  # EXIF: the camera was held upright
CAPTIONS = {
    "astronaut": "an astronaut in an orange suit",
    "chelsea": "a tabby cat looking up",
    "coffee": "a cup of coffee with a spoon",
    "rocket": "a rocket on its launch pad at dusk",
}


def lay_out(folder: Path) -> None:
    """Four photographs, one of which was taken with the camera turned, a small copy of one, and a torn file."""
    folder.mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    for number, (name, caption) in enumerate(CAPTIONS.items(), 1):
        small = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        image = small.resize((small.width * 2, small.height * 2), Image.Resampling.LANCZOS)
        stem = f"IMG_{number:04}"
        if name == "coffee":
            image.transpose(Image.Transpose.ROTATE_90).save(folder / f"{stem}.jpg", quality=92, exif=exif)
        else:
            image.save(folder / f"{stem}.jpg", quality=92)
        if name == "chelsea":
            small.save(folder / f"{stem}-WA.jpg", quality=60)
            (folder / f"{stem}-WA.txt").write_text("a cat\n")
        (folder / f"{stem}.txt").write_text(f"{caption}\n")
    (folder / "IMG_0005.jpg").write_bytes((folder / "IMG_0004.jpg").read_bytes()[:40_000])
    (folder / "IMG_0005.txt").write_text("a rocket\n")


def commands() -> list[tuple[str, str]]:
    """Each command of the marked blocks, and what follows it."""
    lines = [line for block in MARKED for line in block.splitlines()]
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    return [
        (lines[start].removeprefix("$ littlecascade "), "\n".join(lines[start + 1 : end]))
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)
    ]


def comparable(text: str) -> str:
    return re.sub(r"[\d.]+ (MB|bytes)", r"some \1", text).strip()


def test_the_way_from_a_phone_to_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "DCIM")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    assert len(commands()) >= 4
    for command, output in commands():
        main(shlex.split(command))
        said = capsys.readouterr()
        assert comparable(said.out + said.err) == comparable(output), command
