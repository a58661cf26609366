from __future__ import annotations

import gzip
import io
import random
import re
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littlecascade.data.tars import Entry, Problem, scan

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
NAME = st.text(st.characters(blacklist_characters="\0/\\", blacklist_categories=("Cs",)), min_size=1, max_size=120)
Tar = Callable[..., bytes]


def special(name: str, kind: bytes, target: str = "") -> bytes:
    """The header of a member without data."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info.tobuf()


def with_header(data: bytes, kind: bytes, name: str = "x", size: int | None = None) -> bytes:
    """A member of any kind around `data`, whose header may lie about its size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def scanned(data: bytes) -> list[Entry | Problem]:
    return list(scan(lambda offset, size: data[offset : offset + size], len(data)))


def entries(data: bytes) -> list[Entry]:
    return [item for item in scanned(data) if isinstance(item, Entry)]


def problems(data: bytes) -> list[tuple[str, str, bool]]:
    return [(item.name, item.reason, item.fatal) for item in scanned(data) if isinstance(item, Problem)]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.lists(NAME, min_size=1, max_size=3).map("/".join), st.binary(max_size=1500), max_size=5))
def test_it_finds_what_tarfile_finds(tar: Tar, members: dict[str, bytes]) -> None:
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar(members, kind)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            expected = [Entry(info.name, info.offset_data, info.size) for info in archive]
        leading_out = [
            entry for entry in expected if ".." in entry.name.split("/") or re.match("[a-zA-Z]:", entry.name)
        ]
        nameless = [entry for entry in expected if set(entry.name.split("/")) <= {"."}]
        assert entries(data) == [entry for entry in expected if entry not in (*leading_out, *nameless)]


@pytest.mark.parametrize("kind", FORMATS)
def test_long_names_in_every_format(tar: Tar, kind: int) -> None:
    name = f"{'folder/' * 20}{'n' * 90}.png"
    data = tar({name: b"picture", "after.txt": b"text"}, kind)
    assert [(entry.name, data[entry.offset :][: entry.size]) for entry in entries(data)] == [
        (name, b"picture"),
        ("after.txt", b"text"),
    ]


def test_sizes_beyond_the_octal_field(tar: Tar) -> None:
    size = 9 << 30
    header = with_header(b"", b"0", "huge.bin", size)
    after = header + tar({"a.png": b"A"})
    moved = 512 + size

    def read(offset: int, count: int) -> bytes:
        start = offset - moved + 512 if offset >= moved else offset
        return after[start : start + count]

    found = list(scan(read, moved + len(after) - 512))
    assert found == [Entry("huge.bin", 512, size), Entry("a.png", moved + 512, 1)]


def test_what_is_no_file_is_named_and_passed_over(tar: Tar) -> None:
    data = b"".join(
        [
            special("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            special("hard.png", tarfile.LNKTYPE, "a.png"),
            special("null", tarfile.CHRTYPE),
            special("sda", tarfile.BLKTYPE),
            special("queue", tarfile.FIFOTYPE),
            special("folder", tarfile.DIRTYPE),
            with_header(b"?", b"Z", "new"),
            with_header(b"data", b"S", "holes"),
            tar(
                {"/etc/a.png": b"", "../b.png": b"", "c/../../d.png": b"", "C:\\e.png": b"", "..\\f.png": b"", "g": b""}
            ),
        ]
    )
    out = "has a name that leads out of its folder"
    assert problems(data) == [
        ("link.png", "is a symbolic link", False),
        ("hard.png", "is a hard link", False),
        ("null", "is a device", False),
        ("sda", "is a device", False),
        ("queue", "is a pipe", False),
        ("new", "is of an unknown kind ('Z')", False),
        ("holes", "is a sparse file", False),
        *((name, out, False) for name in ("/etc/a.png", "../b.png", "c/../../d.png", "C:\\e.png", "..\\f.png")),
    ]
    assert [entry.name for entry in entries(data)] == ["g"]


def test_of_two_members_of_one_name_the_first_counts(tar: Tar) -> None:
    data = tar({"a.png": b"1"})[:1024] + tar({"a.png": b"2"})
    assert entries(data) == [Entry("a.png", 512, 1)]
    assert problems(data) == [("a.png", "is there a second time", False)]


def test_names_in_any_encoding(tar: Tar) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("ä.png", "é.png"):
            archive.addfile(tarfile.TarInfo(name))
    assert [entry.name for entry in entries(buffer.getvalue())] == ["ä.png", "é.png"]
    assert [entry.name for entry in entries(tar({"猫.png": b""}, tarfile.GNU_FORMAT))] == ["猫.png"]


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_at_any_byte(tar: Tar, kind: int) -> None:
    whole = tar({"a.png": b"a" * 700, "é" * 40 + "b.png": b"", "c.png": b"c" * 512}, kind)
    all_entries = entries(whole)
    end = all_entries[-1].offset + 512
    assert problems(whole) == []
    for cut in range(end + 1):
        found = scanned(whole[:cut])
        last = found.pop()
        assert found == all_entries[: len(found)]
        assert all(entry.offset + entry.size <= cut for entry in found if isinstance(entry, Entry))
        assert isinstance(last, Problem)
        assert last.fatal or "no end mark" in last.reason


def test_flipped_bytes_never_lead_outside_of_the_file(tar: Tar) -> None:
    chance = random.Random(0)
    whole = tar({f"{'é' * 60}{index}.png": bytes(600) for index in range(3)})
    named = 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        found = scanned(bytes(data))
        named += any(isinstance(item, Problem) for item in found)
        assert all(item.offset + item.size <= len(data) for item in found if isinstance(item, Entry))
    assert named > 500  # a flip in a header shows; one in the pictures or the padding does not


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a whole, uncompressed tar file"),
        (b"\x89PNG" + bytes(2000), "no header at byte 0"),
        (gzip.compress(special("a.png", tarfile.REGTYPE), mtime=0), "it is gzip data: unpack it first"),
        (with_header(b"x" * 512, b"0", "short.png", 10**6), "999,488 bytes of 'short.png' are missing"),
        (with_header(b"x" * (2 << 20), b"x"), "an extended header of 2,097,152 bytes"),
        (with_header(b"x" * (2 << 20), b"L"), "an extended header of 2,097,152 bytes"),
        (with_header(b"99 path=a\n", b"x") + special("a", tarfile.REGTYPE), "an extended header can't be read"),
        (with_header(b"0 path=a\n", b"x") + special("a", tarfile.REGTYPE), "an extended header can't be read"),
        (with_header(b"1" * 5000, b"x") + special("a", tarfile.REGTYPE), "an extended header can't be read"),
        (with_header(b"11 size=-1\n", b"x") + special("a", tarfile.REGTYPE), "the size of 'a' is no number"),
        (with_header(b"10 path=a\n", b"x"), "it ends after an extended header"),
    ],
)
def test_the_end_of_a_broken_tar_says_why(data: bytes, said: str) -> None:
    assert len(scanned(data)) == 1
    ((_, reason, fatal),) = problems(data)
    assert said in reason
    assert fatal
