from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from littlecascade.errors import InputError
from littlecascade.recipe import KEY, read_recipe, save_png

PICTURE = Image.new("RGB", (2, 1), (250, 3, 77))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG by their type, their checksums verified (PNG specification, section 5)."""
    found, position = {}, 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length) == (zlib.crc32(kind + body),)
        found[kind] = body
        position += 12 + length
    return found


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_recipes_round_trip(tmp_path_factory: pytest.TempPathFactory, recipe: dict) -> None:
    path = tmp_path_factory.mktemp("recipe") / "picture.png"
    save_png(PICTURE, path, recipe)
    assert read_recipe(path) == recipe


def test_the_recipe_is_one_utf8_text_chunk_before_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_png(PICTURE, path, {"prompt": "ein Äpfelchen 🍎"})
    kinds = chunks(path.read_bytes())
    # keyword, compression flag and method, language, translated keyword, text
    assert kinds[b"iTXt"] == b"littlecascade\0\0\0\0\0" + '{"prompt": "ein Äpfelchen 🍎"}'.encode()
    assert list(kinds).index(b"iTXt") < list(kinds).index(b"IDAT")


def test_pixels_survive(tmp_path: Path) -> None:
    save_png(PICTURE, tmp_path / "picture.png", {})
    with Image.open(tmp_path / "picture.png") as image:
        assert image.tobytes() == bytes([250, 3, 77] * 2)


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "picture.png"
    save_png(PICTURE, path, {"seed": 1})

    def full(self: Image.Image, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_png(PICTURE, path, {"seed": 2})
    assert read_recipe(path) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_recipes_hold_only_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_png(PICTURE, tmp_path / "picture.png", {"guidance": float("nan")})


def foreign(path: Path) -> None:
    PICTURE.save(path, format="PNG")


def jpeg(path: Path) -> None:
    PICTURE.save(path, format="JPEG")


def no_json(path: Path) -> None:
    info = PngInfo()
    info.add_text(KEY, "{")
    PICTURE.save(path, format="PNG", pnginfo=info)


def no_object(path: Path) -> None:
    info = PngInfo()
    info.add_text(KEY, "[1]")
    PICTURE.save(path, format="PNG", pnginfo=info)


def truncated(path: Path) -> None:
    save_png(PICTURE, path, {})
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign, "carries no recipe"),
        (jpeg, "not a readable PNG"),
        (truncated, "not a readable PNG"),
        (no_json, "is broken"),
        (no_object, "must be a JSON object"),
        (Path.mkdir, "not a readable PNG"),
        (lambda path: None, "there is no picture"),
    ],
)
def test_other_files_are_refused(make, message: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(InputError, match=message):
        read_recipe(path)
