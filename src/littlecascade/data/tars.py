"""The index of a tar file, made from its headers alone, whatever state the file is in.

Nothing is unpacked, so that no name leads anywhere; memory and time are bounded by the number of headers. Python's
`tarfile` is not used: it reads an extended header of any size into memory, and several of its versions hang on some.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BLOCK = 512
LARGEST_EXTENSION = 1 << 20
"""Bytes that the extended header of a member (a long name, further attributes) may have."""
_REGULAR, _SPARSE = frozenset(b"07\0"), ord("S")
_WITHOUT_DATA = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a device",
    ord("4"): "a device",
    ord("6"): "a pipe",
}
_FOLDER, _LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"5LKxg"
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*(?:\0.*)?", re.DOTALL)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"PK": "zip"}

Read = Callable[[int, int], bytes]
"""The bytes from an offset on, as many as asked for unless the file ends first."""


@dataclass(frozen=True)
class Entry:
    """A file in a tar: its name as it stands there, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Problem:
    """What is wrong with a member, or from `offset` on with the whole tar: then it is `fatal`, and the last item.

    `name` is that of the member, empty where none can be told; `reason` goes on from the name: "is a device".
    """

    name: str
    offset: int
    reason: str
    fatal: bool = False


def scan(read: Read, size: int) -> Iterator[Entry | Problem]:
    """The files of a tar of `size` bytes, in their order, and what is wrong with it, as far as it can be read.

    Left out as a `Problem` each: links, devices, pipes, sparse files, absolute names and those with a `..`, and a name
    that was there before. Folders are passed over. A tar that is cut short or damaged ends with a fatal `Problem`.
    """
    seen: set[str] = set()
    try:
        for member in _members(read, size):
            if isinstance(member, Problem):
                yield member
                continue
            fault = _fault(member, seen)
            if fault is not None:
                yield Problem(member.name, member.offset, fault)
            elif not member.is_folder:
                seen.add(member.name)
                yield Entry(member.name, member.offset, member.size)
    except _BrokenError as error:
        yield Problem(error.name, error.offset, error.reason, fatal=True)


def decode_name(name: bytes) -> str:
    """A member's name in UTF-8 or, where it is none, in Latin-1, which keeps every byte apart."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


class _BrokenError(Exception):
    def __init__(self, offset: int, reason: str, name: str = "") -> None:
        self.offset, self.reason, self.name = offset, reason, name


@dataclass(frozen=True)
class _Member:
    kind: int
    name: str
    offset: int  # of its data
    size: int
    sparse: bool

    @property
    def is_folder(self) -> bool:
        return self.kind == _FOLDER or self.name.endswith("/")


def _fault(member: _Member, seen: set[str]) -> str | None:
    path = member.name.replace("\\", "/")
    parts = path.split("/")
    if member.kind in _WITHOUT_DATA:
        return f"is {_WITHOUT_DATA[member.kind]}"
    if member.sparse:
        return "is a sparse file"
    if member.kind not in _REGULAR and not member.is_folder:
        return f"is of an unknown kind ({chr(member.kind)!r})"
    if ".." in parts or path.startswith("/") or re.match("[A-Za-z]:", path):
        return "has a name that leads out of its folder"
    if not any(part.strip(".") for part in parts) and not member.is_folder:
        return "has no name"
    if member.name in seen and not member.is_folder:
        return "is there a second time"
    return None


def _members(read: Read, size: int) -> Iterator[_Member | Problem]:
    """All members, of any kind, with long names and sizes put in from the extended headers before them."""
    offset, extended = 0, dict[str, bytes]()
    while header := _header(read, offset, size):
        kind, name, length = _fields(header, offset, extended)
        data = offset + BLOCK
        if kind in _WITHOUT_DATA or kind == _FOLDER:
            length = 0
        offset = data + -(-length // BLOCK) * BLOCK
        if data + length > size:
            missing = data + length - size
            raise _BrokenError(data, f"is cut short: {missing:,} bytes of {name!r} are missing", name)
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            extended |= _extension(kind, read, data, length)
            continue
        sparse = kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in extended)
        yield _Member(kind, name, data, length, sparse)
        extended = {}
    if extended:
        raise _BrokenError(offset, "is not a whole, uncompressed tar file (it ends after an extended header)")
    if offset >= size:
        yield Problem("", offset, "has no end mark: it may be cut short")


def _header(read: Read, offset: int, size: int) -> bytes | None:
    """The checked header at an offset, or None where the tar ends. Raises `_BrokenError` for anything else."""
    if offset >= size > 0:
        if offset == size:
            return None
        raise _BrokenError(offset, "is cut short: the end of its last member is missing")
    block = read(offset, min(BLOCK, size - offset))
    if len(block) == BLOCK and not any(block):
        return None
    if not offset:
        for magic, kind in _COMPRESSED.items():
            if block.startswith(magic):
                raise _BrokenError(0, f"is not a whole, uncompressed tar file (it is {kind} data: unpack it first)")
    if len(block) < BLOCK:
        said = "cut short" if offset else "not a whole, uncompressed tar file"
        raise _BrokenError(offset, f"is {said}: {len(block)} bytes stand at {offset:,} where a header has {BLOCK}")
    # The sum of all bytes, the field of the sum itself taken as spaces; old writers summed signed bytes.
    field = block[148:156]
    stored, unsigned = _octal(field), sum(block) - sum(field) + 8 * ord(" ")
    if stored != unsigned and stored != unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        raise _BrokenError(offset, f"is not a whole, uncompressed tar file (no header at byte {offset:,})")
    return block


def _fields(header: bytes, offset: int, extended: dict[str, bytes]) -> tuple[int, str, int]:
    """The kind, name and size that a header and the extended ones before it tell."""
    kind = header[156]
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
        name = prefix + b"/" + name
    size = _octal(header[124:136])
    if kind not in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
        name = extended.get("path", name)
        if "size" in extended:
            size = int(extended["size"]) if re.fullmatch(rb"\d{1,18}", extended["size"]) else None
    if size is None:
        shown = decode_name(name)
        raise _BrokenError(offset, f"is not a whole, uncompressed tar file (the size of {shown!r} is no number)", shown)
    return kind, decode_name(name), size


def _extension(kind: int, read: Read, offset: int, size: int) -> dict[str, bytes]:
    if size > LARGEST_EXTENSION:
        raise _BrokenError(offset, f"is not a whole, uncompressed tar file (an extended header of {size:,} bytes)")
    if kind == _LONG_NAME:
        return {"path": _text(read(offset, size))}
    return _records(read(offset, size), offset) if kind == _PAX else {}


def _records(data: bytes, offset: int) -> dict[str, bytes]:
    """The lines `length key=value` of a POSIX extended header."""
    records: dict[str, bytes] = {}
    start = 0
    while start < len(data) and data[start]:
        head = data[start : start + 20].partition(b" ")[0]
        end = start + int(head) if re.fullmatch(rb"\d{1,19}", head) else 0
        key, equals, value = data[start + len(head) + 1 : max(end - 1, 0)].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise _BrokenError(offset, "is not a whole, uncompressed tar file (an extended header can't be read)")
        records[decode_name(key)] = value
        start = end
    return records


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int | None:
    """A number of a header: octal digits or, with the first bit set, the field's other bits."""
    if field[0] & 0x80:
        return None if field[0] & 0x40 else int.from_bytes(field, "big") ^ 1 << (8 * len(field) - 1)
    match = _OCTAL.fullmatch(field)
    return int(match[1] or b"0", 8) if match else None
