from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from littlecascade.cli.files import plan_outputs, stem_of
from littlecascade.data.pictures import open_picture
from littlecascade.errors import InputError


def names(target: Path | str, *stems: str, **options: bool) -> list[str]:
    return [path.name for path in plan_outputs(str(target), stems, **options)]


@given(st.text())
def test_stems_are_short_plain_names(prompt: str) -> None:
    stem = stem_of(prompt)
    assert 0 < len(stem) <= 50
    assert not set(stem) & set('/\\:*?"<>|. \n\0')
    assert len(f"{stem}-10000.png".encode()) <= 255


def test_long_prompts_end_at_a_word() -> None:
    assert stem_of("word " * 30) == "-".join(["word"] * 10)  # 10 words and 9 dashes are 49 characters
    assert stem_of("x" * 80) == "x" * 50


def test_a_folder_is_made_and_names_do_not_clash(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert names(folder, "apple", "apple", "pear") == ["apple.png", "apple-2.png", "pear.png"]
    (folder / "apple.png").touch()
    assert names(folder, "apple", "apple") == ["apple-2.png", "apple-3.png"]
    assert names(folder, "apple", "apple", overwrite=True) == ["apple.png", "apple-2.png"]
    assert [path.name for path in folder.iterdir()] == ["apple.png"]


def test_the_default_is_the_current_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_outputs(None, ["apple"]) == [Path("apple.png")]


def test_a_file_is_numbered_when_there_are_several_pictures(tmp_path: Path) -> None:
    assert names(tmp_path / "a.png", "x") == ["a.png"]
    assert names(tmp_path / "a.PNG", "x", "y") == ["a-1.PNG", "a-2.PNG"]
    assert names(tmp_path / "a.png", *"x" * 10)[::9] == ["a-01.png", "a-10.png"]


def test_a_name_that_ends_in_a_slash_or_is_a_folder_is_a_folder(tmp_path: Path) -> None:
    assert names(f"{tmp_path}/v1.png/", "x") == ["x.png"]
    assert names(tmp_path / "v1.png", "x") == ["x.png"]
    assert names(tmp_path / "v1.5", "x") == ["x.png"]


def test_a_named_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "a-2.png").touch()
    with pytest.raises(InputError, match=r"a-2\.png' exists"):
        names(tmp_path / "a.png", "x", "y")
    assert names(tmp_path / "a.png", "x", "y", overwrite=True) == ["a-1.png", "a-2.png"]


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png'\.$"):
        names(tmp_path / "a.jpg", "x")


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't write into"):
        names(tmp_path / "file" / "folder", "x")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions don't bind this user")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="can't write into"):
        names(tmp_path, "x")


def test_pictures_are_opened_as_rgb_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    opened = open_picture(tmp_path / "clear.png")
    assert (opened.mode, opened.size, opened.getpixel((0, 0))) == ("RGB", (3, 2), (255, 255, 255))


def test_missing_and_broken_pictures_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    Image.effect_noise((64, 64), 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(InputError, match="can't be read"):
        open_picture(broken)
    with pytest.raises(InputError, match="There is no picture"):
        open_picture(tmp_path / "missing.png")
