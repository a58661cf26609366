"""docs/data.md: its commands are run on photographs as a phone writes them, and say what it says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import skimage.data
from PIL import Image

from littlecascade.cli.main import main

DOCS = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
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


def test_the_way_from_a_phone_to_shards(
    documents: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "DCIM")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    commands = list(documents.commands(DOCS))
    assert len(commands) >= 4
    for command in commands:
        main(command.words)
        said = capsys.readouterr()
        assert documents.agrees(command.printed, said.out + said.err), command.line
