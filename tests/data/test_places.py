from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from littlecascade.data import pipes
from littlecascade.data.places import describe, expand, matches, open_place, resolve
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError


def files(where: str | list[str]) -> list[str]:
    return [file.name for found in resolve(where) for file in found.files]


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def python(code: str) -> str:
    """A `pipe:` that runs a line of Python."""
    return "pipe:" + shlex.join([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{000..002}", ["000", "001", "002"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{3..1}x", ["3x", "2x", "1x"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{a,b{1,2}}", ["a", "b1", "b2"]),
        ("x{,s}", ["x", "xs"]),
        ("{one}", ["{one}"]),
        ("{one}{0..1}", ["{one}0", "{one}1"]),
        ("a{b", ["a{b"]),
    ],
)
def test_braces_as_in_a_shell(place: str, expected: list[str]) -> None:
    assert expand(place) == expected


@pytest.mark.parametrize("place", ["{0..999999999}", "{0..9999}" * 5, "{1,2}" * 2000])
def test_braces_are_bounded(place: str) -> None:
    with pytest.raises(InputError, match=r"more than (100,000 places|20 pairs)"):
        expand(place)


def test_braces_name_files_that_all_have_to_be_there(tmp_path: Path) -> None:
    write(tmp_path, "t-00.tar", "t-01.tar", "t-03.tar")
    assert files(str(tmp_path / "t-{00..01}.tar")) == ["t-00.tar", "t-01.tar"]
    with pytest.raises(InputError, match=r"No data at '.*t-\{00\.\.03\}\.tar': looked for .*t-02\.tar\. Did you mean"):
        resolve(str(tmp_path / "t-{00..03}.tar"))


def test_what_exists_as_it_stands_is_no_pattern(tmp_path: Path) -> None:
    write(tmp_path, "a{1,2}.tar", "[old]/b-1.tar", "[old]/b-2.tar", "b.tar")
    assert files(str(tmp_path / "a{1,2}.tar")) == ["a{1,2}.tar"]
    assert files(str(tmp_path / "[old]" / "b-*.tar")) == ["b-1.tar", "b-2.tar"]
    assert files(str(tmp_path / "[ab].tar")) == ["b.tar"]


def test_globs_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path, "x/1.tar", "y/deep/2.tar", "y/3.txt")
    assert files(str(tmp_path / "*" / "*.tar")) == ["1.tar"]
    assert files(str(tmp_path / "**" / "*.tar")) == ["1.tar", "2.tar"]
    assert matches(str(tmp_path / "{y,z}" / "*.txt")) == [tmp_path / "y" / "3.txt"]
    assert matches(str(tmp_path / "***" / "no")) == matches("s3://bucket/x.tar") == matches("n" * 5000) == []


def test_prefixes_of_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.tar")
    monkeypatch.chdir(tmp_path)
    expected = resolve(str(tmp_path / "a.tar"))[0].files
    for place in ("a.tar", "file:a.tar", f"file:{tmp_path}/a.tar", f"file://{tmp_path.as_posix()}/a.tar"):
        assert resolve(place)[0].files == expected


@pytest.mark.parametrize("place", ["C:\\data\\x.tar", "file:C:\\data\\x.tar", "c:/data/x.tar", "file:///C:/data/x.tar"])
def test_a_drive_is_no_scheme(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"No data at .*: looked for .*[Cc]:.data.x\.tar\."):
        resolve(place)


def test_a_missing_folder_names_the_one_like_it(tmp_path: Path) -> None:
    write(tmp_path, "pictures/sub/a.png")
    with pytest.raises(InputError, match="Did you mean 'pictures'"):
        resolve(str(tmp_path / "picturs" / "sub" / "a.png"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_would_block_or_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "queue.tar")
    for place in (tmp_path / "queue.tar", Path("/dev/zero")):
        with pytest.raises(InputError, match="is neither a file nor a folder"):
            resolve(str(place))
    assert files(str(tmp_path)) == []


def test_a_yaml_list_holds_places_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "here/a.tar", "elsewhere/b-0.tar", "elsewhere/b-1.tar", "c.tar")
    (tmp_path / "here" / "inner.yaml").write_text("- a.tar\n- file:../c.tar\n")
    (tmp_path / "outer.yml").write_text(f"- here/inner.yaml\n- {tmp_path.as_posix()}/elsewhere/b-{{0..1}}.tar\n")
    assert files(str(tmp_path / "outer.yml")) == ["a.tar", "c.tar", "b-0.tar", "b-1.tar"]
    monkeypatch.chdir(tmp_path)
    assert files(["outer.yml", "c.tar"]) == ["a.tar", "c.tar", "b-0.tar", "b-1.tar", "c.tar"]
    (tmp_path / "third.yml").write_text("- outer.yml")
    with pytest.raises(InputError, match="is a list in a list in a list"):
        resolve("third.yml")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: b", "holds no list"), ("[]", "holds no list"), ("- [x]", "holds no list"), ("- 'x", "is not YAML")],
)
def test_a_yaml_file_that_is_no_list(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.yml").write_text(text)
    with pytest.raises(InputError, match=rf"list\.yml {said}"):
        resolve(str(tmp_path / "list.yml"))


def test_a_yaml_list_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "lists.yml")
    with pytest.raises(InputError, match=r"Did you mean 'lists\.yml'"):
        resolve(str(tmp_path / "list.yml"))
    with pytest.raises(InputError, match="is read from a local file"):
        resolve("s3://bucket/list.yml")


def test_programs_only_where_they_are_allowed() -> None:
    place = python(r"import sys; sys.stdout.buffer.write(b'ab\n' * 100_000)")
    with pytest.raises(InputError, match="which is not allowed here"):
        resolve(place)
    with open_place(place, allow_pipe=True) as stream:
        assert stream.read() == b"ab\n" * 100_000
    (found,) = resolve(place, allow_pipe=True)
    assert describe([found]).endswith(": 1 program, 0 B and what has no known size")


def test_a_program_meets_no_shell(tmp_path: Path) -> None:
    mark = tmp_path / "made"
    quoted = python("import sys; print(sys.argv[1:])") + f" '$(touch {mark})' `touch {mark}` *"
    with open_place(quoted, allow_pipe=True) as stream:
        assert stream.read().decode().strip() == repr([f"$(touch {mark})", "`touch", f"{mark}`", "*"])
    with pytest.raises(InputError, match=r"without a shell, which alone knows what '\|' means"):
        open_place(f"pipe:cat x | touch {mark}", allow_pipe=True)
    assert not mark.exists()


def test_a_program_that_fails_says_what_it_said() -> None:
    stream = open_place(python("import sys; print('half'); sys.exit('no such bucket')"), allow_pipe=True)
    with stream, pytest.raises(InputError, match=r"failed with status 1: no such bucket\.$"):
        stream.read()
    for place, said in [
        ("pipe:", "names no program"),
        ("pipe:no-such-program x", "can't be started"),
        ("pipe:'", "apart"),
    ]:
        with pytest.raises(InputError, match=said):
            open_place(place, allow_pipe=True)


def test_a_silent_program_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "TIMEOUT", 0.3)
    started = time.monotonic()
    stream = open_place(python("import time; time.sleep(60)"), allow_pipe=True)
    with stream, pytest.raises(InputError, match=r"has written nothing for 0\.3 seconds"):
        stream.read(1)
    assert time.monotonic() - started < 30


def test_schemes_that_nobody_or_not_everybody_can_read() -> None:
    with pytest.raises(InputError, match=r"there is no way to read from s4://\. Did you mean 's3'\?"):
        resolve("s4://bucket/x.tar")
    code = (
        "import sys; sys.modules['s3fs'] = sys.modules['aiohttp'] = None\n"
        "from littlecascade.data.places import resolve\n"
        "for place in ('s3://b/x.tar', 'https://h/x.tar'):\n"
        "    try: resolve(place)\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said == [
        f"InputError {place}: reading from {place[: place.index('/')]}// needs more to be installed: "
        "pip install 'littlecascade[cloud]'"
        for place in ("s3://b/x.tar", "https://h/x.tar")
    ]


def test_a_line_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a-0.tar", "a-1.tar"):
        tarfile.open(name, "w").close()  # 10,240 bytes each
    write(tmp_path, "pictures/x.png")
    assert describe(resolve("a-{0..1}.tar")) == "a-{0..1}.tar: 2 tar files, 20.5 kB"
    assert describe(resolve(["a-0.tar", "pictures"])) == "a-0.tar, pictures: 1 tar file and 1 file, 10.3 kB"
    assert describe(resolve(["pictures"] * 5)) == "pictures, pictures, pictures and 2 more places: 5 files, 70 B"


def test_one_place_of_several_files_is_not_read_as_one(tmp_path: Path) -> None:
    write(tmp_path, "a.tar", "b.tar")
    with open_place(str(tmp_path / "a.tar")) as stream:
        assert stream.read() == b"a.tar"
    with pytest.raises(InputError, match="stands for 2 files where one is needed"):
        open_place(str(tmp_path / "*.tar"))


def test_pictures_and_captions_that_a_glob_finds_belong_together(tmp_path: Path) -> None:
    write(tmp_path, "a/x.png", "a/x.txt", "b/x.png", "b/x.txt")
    samples = find_samples(str(tmp_path / "*" / "x.*"))
    assert [(sample.name, sample.captions()) for sample in samples] == [("x.png", ["a/x.txt"]), ("x.png", ["b/x.txt"])]
