"""Five hundred damaged tars and pictures, made with a fixed seed: none crashes, hangs or escapes, each is named."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.check import Report, Wanted, check
from littlecascade.data.findings import Kind
from littlecascade.errors import InputError

SECONDS = 20  # that one damaged file may take, on a busy machine
BLOCK = tarfile.BLOCKSIZE
LONG = "ü/" * 120 + "long.png"


def count(caption: str) -> int:
    return len(caption)


def picture(kind: str = "PNG", seed: int = 0, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, target
    return made


def tar(*members: tuple[tarfile.TarInfo, bytes], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **{"format": tarfile.GNU_FORMAT, **options}) as archive:
        for header, content in members:
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def files(*members: tuple[str, bytes], **options: object) -> bytes:
    return tar(*((info(name, len(content)), content) for name, content in members), **options)


@pytest.fixture(scope="module")
def whole() -> bytes:
    """Four pictures with captions, one below a long name; its headers and where the bytes of pictures end are known."""
    pictures = [(name, picture(seed=seed)) for seed, name in enumerate(["a.png", "b.png", LONG, "d.png"])]
    return files(*(member for name, content in pictures for member in ((name, content), (name[:-3] + "txt", b"words"))))


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., Report | InputError]:
    """Check a file of some content, in its time, and see to it that nothing but the file is in its folder."""
    folder = tmp_path / "up" / "data"
    folder.mkdir(parents=True)

    def run(content: bytes, name: str = "shard.tar") -> Report | InputError:
        results: list[Report | InputError | BaseException] = []

        def work() -> None:
            try:
                results.append(check(str(folder / name), Wanted(32, ("1/1",)), count))
            except BaseException as error:
                results.append(error)

        (folder / name).write_bytes(content)
        thread = Thread(target=work, daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive(), "it hangs"
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [folder / name]
        (folder / name).unlink()
        [result] = results
        if not isinstance(result, Report | InputError):
            raise result
        return result

    return run


def told(result: Report | InputError) -> str:
    """All that the report says of members, in one text: not that the small pictures are small."""
    if isinstance(result, InputError):
        return str(result)
    about_members = [finding for kind in (Kind.DAMAGED, Kind.CLASH, Kind.LEFT_OUT) for finding in result.of(kind)]
    return "\n".join(f"{finding.name} {finding.detail}" for finding in about_members)


def names(result: Report | InputError) -> list[str]:
    return [] if isinstance(result, InputError) else [look.name for look in result.looks]


def positions(seed: int, end: int, number: int) -> list[int]:
    return sorted(random.Random(seed).sample(range(end), number))


def test_the_whole_tar_is_sound(whole: bytes, examine: Callable[..., Report | InputError]) -> None:
    result = examine(whole)
    assert names(result) == [f"shard.tar/{name}" for name in ("a.png", "b.png", LONG, "d.png")]
    assert told(result) == ""


def test_tars_that_end_anywhere(whole: bytes, examine: Callable[..., Report | InputError]) -> None:
    """134 of them: what lies before the cut is found, and the tar is named."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = {f"shard.tar/{m.name}": m.offset_data + m.size for m in archive if m.name.endswith(".png")}
    last = max(ends.values()) + BLOCK  # beyond it there are only padding and the end's zeros
    for cut in positions(0, last, 134):
        result = examine(whole[:cut])
        assert names(result) == [name for name, end in ends.items() if end <= cut], cut
        assert "shard.tar" in told(result), cut


def test_tars_with_wrong_bytes(whole: bytes, examine: Callable[..., Report | InputError]) -> None:
    """100 of them: a wrong byte in a header is always noticed, and one in a picture may turn out to be harmless."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        headers = [member.offset for member in archive]
    generator = random.Random(1)
    for _ in range(60):
        position = generator.choice(headers) + generator.randrange(BLOCK)
        changed = bytearray(whole)
        changed[position] ^= 1 << generator.randrange(8)
        assert "shard.tar" in told(examine(bytes(changed))), position
    for position in positions(2, len(whole), 40):
        changed = bytearray(whole)
        changed[position] ^= 1 + generator.randrange(255)
        result = examine(bytes(changed))
        assert len(names(result)) == 4 or "shard.tar" in told(result), position


def with_size(content: bytes, offset: int, field: bytes) -> bytes:
    """The tar with another size in the header at `offset`, whose checksum is right again."""
    header = bytearray(content[offset : offset + BLOCK])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:offset] + bytes(header) + content[offset + BLOCK :]


def test_tars_with_wrong_sizes(whole: bytes, examine: Callable[..., Report | InputError]) -> None:
    """60 of them: too large, too small, negative, beyond every file, no number at all."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        members = [(member.offset_data - BLOCK, member.size) for member in archive]
    generator = random.Random(3)
    for number in range(60):
        offset, size = generator.choice(members)
        field = [
            b"%011o\0" % (size + generator.randrange(BLOCK, 10**6)),
            b"%011o\0" % generator.randrange(8**11),
            b"\x80" + generator.randbytes(11),
            b"\xff" * 8 + generator.randbytes(4),
            b"77777x77777\0",
            b"%011o\0" % max(size - BLOCK, 0) if size > BLOCK else b"%011o\0" % (size + BLOCK),
        ][number % 6]
        assert "shard.tar" in told(examine(with_size(whole, offset, field))), (number, offset)


def odd_members() -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """What the report has to name, and the member that it is about."""
    content = picture(seed=9)
    for name in ("/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "/x.png"):
        yield name, info(name, len(content)), content
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z")
    for kind in kinds:
        for target in ("/etc/passwd", "../../x", "good.png"):
            yield "odd.png", info("odd.png", kind=kind, target=target), b""
    yield "good.png", info("good.png", len(content)), content
    yield "good.jpg", info("good.jpg", len(content)), content
    yield "empty.png", info("empty.png"), b""
    yield "notes.md", info("notes.md", 5), b"notes"
    yield "inner.tar", info("inner.tar", BLOCK), bytes(BLOCK)
    yield "._good.png", info("._good.png", 3), b"mac"
    yield "lonely.txt", info("lonely.txt", 5), b"words"


def test_odd_members_are_named(examine: Callable[..., Report | InputError]) -> None:
    """31 of them, each beside a good picture, which is found."""
    good = (info("good.png", 0), picture())
    good[0].size = len(good[1])
    for expected, header, content in odd_members():
        result = examine(tar(good, (header, content)))
        assert "shard.tar/good.png" in names(result), expected
        assert isinstance(result, Report)
        assert f"shard.tar/{expected} " in told(result), expected


NAMES = (
    "naïve",
    "漢字",
    "кот",
    "🦊",
    "a b",
    "new\nline",
    "\x1b[31mred",
    "tab\t",
    "e\u0301",
    "\u202egnp",
    "x" * 200,
    "q'\"<&>",
)


def test_names_in_any_encoding(examine: Callable[..., Report | InputError]) -> None:
    """46 of them: every picture is found whatever its name's bytes."""
    tried = 0
    for encoding in ("utf-8", "latin-1", "shift_jis", "cp1251"):
        for name in NAMES:
            try:
                name.encode(encoding)
            except UnicodeEncodeError:
                continue
            for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[: 1 + (encoding == "utf-8")]:
                content = files((f"{name}.png", picture()), (f"{name}.txt", b"words"), format=layout, encoding=encoding)
                result = examine(content)
                assert isinstance(result, Report), told(result)
                assert [look.captions for look in result.looks] == ["words"], (name, encoding)
                assert result.of(Kind.DAMAGED) == []
                tried += 1
    assert tried == 46


def extended(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """An extended header of some kind, which may claim another size than it has."""
    header = info("long", len(content) if size is None else size, kind).tobuf(tarfile.GNU_FORMAT)
    return header + content + bytes(-len(content) % BLOCK)


def extended_headers() -> Iterator[bytes]:
    long, pax = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE
    for kind in (long, pax, tarfile.XGLTYPE):
        yield extended(kind, b"x" * (2 << 20))
        yield extended(kind, b"x", size=8 * 2**30)
        yield extended(kind, b"x", size=-512)
    yield extended(pax, b"99 path=short\n")
    yield extended(pax, b"0 path=x\n")
    yield extended(pax, b"19 size=-1000000000\n")
    yield extended(pax, b"25 GNU.sparse.size=1000000\n".replace(b"25", b"27"))


def test_extended_headers_that_lie_or_explode(examine: Callable[..., Report | InputError]) -> None:
    """13 of them, between two good pictures: the first is found, and what follows is named unless it is sound."""
    content = picture()
    before = files(("good.png", content))[: BLOCK + -(-len(content) // BLOCK) * BLOCK]
    after = files(("next.png", picture(seed=1)))
    tried = 0
    for header in extended_headers():
        result = examine(before + header + after)
        assert "shard.tar/good.png" in names(result), tried
        assert len(names(result)) == 2 or "shard.tar" in told(result), tried
        tried += 1
    assert tried == 13


KINDS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def test_pictures_that_end_anywhere(examine: Callable[..., Report | InputError]) -> None:
    """50 of them, down to nothing at all."""
    for kind, suffix in KINDS.items():
        content = picture(kind, side=40)
        for cut in [0, *positions(4, len(content) * 3 // 4, 9)]:
            result = examine(content[:cut], f"cut{suffix}")
            assert isinstance(result, Report)
            assert [finding.name for finding in result.of(Kind.DAMAGED)] == [f"cut{suffix}"], (kind, cut)


def test_pictures_with_wrong_bytes(examine: Callable[..., Report | InputError]) -> None:
    """40 of them: each is either measured or named as damaged."""
    generator = random.Random(5)
    for kind, suffix in KINDS.items():
        for _ in range(8):
            content = bytearray(picture(kind, side=40))
            for position in generator.sample(range(len(content)), 4):
                content[position] = generator.randrange(256)
            result = examine(bytes(content), f"odd{suffix}")
            assert isinstance(result, Report)
            [look] = result.looks
            assert (look.measures is None) == bool(result.of(Kind.DAMAGED))


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that claim to be huge: in each format the sides are put where it has them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    sides = [(60000, 60000), (65535, 65535), (65535, 4000), (30000, 30000), (20000, 20000)]
    for width, height in [*sides, (2**31 - 1, 2**31 - 1), (10**6, 10**6)]:
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(bytes(10**5)))
        yield f"png-{width}x{height}.png", b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b"")
        if width <= 65535:
            jpeg = bytearray(picture("JPEG"))
            place = jpeg.index(b"\xff\xc0") + 5
            jpeg[place : place + 4] = struct.pack(">HH", height, width)
            yield f"jpg-{width}x{height}.jpg", bytes(jpeg)
        bitmap = bytearray(picture("BMP"))
        bitmap[18:26] = struct.pack("<ii", width, height)
        yield f"bmp-{width}x{height}.bmp", bytes(bitmap)
        tiff = bytearray(picture("TIFF"))
        for tag, side in ((256, width), (257, height)):
            place = next(p for p in range(len(tiff)) if tiff[p : p + 2] == struct.pack("<H", tag) and tiff[p + 3] == 0)
            tiff[place : place + 12] = struct.pack("<HHII", tag, 4, 1, side)
        yield f"tif-{width}x{height}.tif", bytes(tiff)


PEAK = """
import re, sys
from pathlib import Path
from littlecascade.data.check import Wanted, check
report = check(sys.argv[1], Wanted(), len)
assert len(report.looks) == int(sys.argv[2]), len(report.looks)
assert all(look.measures is None for look in report.looks), [look.name for look in report.looks if look.measures]
assert all("million pixels" in look.faults[0] for look in report.looks), {look.faults for look in report.looks}
print(re.search("VmHWM:(.*) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    """26 of them in a process of its own, which stays below 150 MB; one picture of 20000 x 20000 would have 1.2 GB."""
    made = dict(bombs())
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 10_000
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(len(made))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 3, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150 * 1024
