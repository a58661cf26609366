"""One look at a sample: it is read, decoded and measured, and no more is kept of it than what `Look` holds."""

from __future__ import annotations

import hashlib
import io
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from littlecascade.data import likeness
from littlecascade.data.buckets import Size
from littlecascade.data.captions import SIDECAR, captions_of
from littlecascade.data.files import Names
from littlecascade.data.lazy import Lazy
from littlecascade.data.pictures import to_rgb, upright_size
from littlecascade.data.samples import Member, Sample

THUMBNAIL_SIDE = 160  # pixels
DIGEST = 16  # bytes
_THUMBNAIL_QUALITY = 60
_LARGEST_PICTURE, _LARGEST_TEXT = 2**30, 2**20  # bytes that are read of a member
_CAPTIONS_KEPT = 1000  # characters
_LARGE = 32 * 10**6  # pixels: larger pictures are decoded one at a time
_one_large = threading.Lock()


@dataclass(frozen=True, slots=True)
class Measures:
    """Of a picture that can be decoded: its upright size, a hash of its file, and what `likeness` says of it.

    digest: 16 bytes. colour: 0xRRGGBB.
    """

    size: Size
    digest: bytes
    fingerprint: int
    colour: int
    sharpness: float


_NOTHING = Measures((0, 0), bytes(DIGEST), 0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Look:
    """`measures` is None if the picture can't be decoded; `faults` say what is wrong with any member.

    captions: the alternatives, one a line, their first 1,000 characters. tokens: of each. described: whether a text
    or JSON member is there. thumbnail: a JPEG file of at most 160 x 160 pixels, empty if none was wanted.
    """

    name: str
    measures: Measures | None
    captions: str
    tokens: tuple[int, ...]
    described: bool
    faults: tuple[str, ...]
    thumbnail: bytes = b""


class Looks(Lazy[Look]):
    """Looks at samples, in the order of these, without thumbnails: each takes its captions' length and 60 bytes."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.widths, self.heights, self.colours = array("I"), array("I"), array("I")  # 0 x 0 if it can't be decoded
        self.fingerprints, self.digests, self.sharpness = array("Q"), bytearray(), array("f")
        self._captions, self._described, self._faults = Names(), bytearray(), dict[int, tuple[str, ...]]()
        self._tokens, self._ends = array("I"), array("Q")

    def append(self, look: Look) -> None:
        """Add the look at the next sample."""
        measures = look.measures or _NOTHING
        for column, value in zip((self.widths, self.heights), measures.size, strict=True):
            column.append(value)
        self.colours.append(measures.colour)
        self.fingerprints.append(measures.fingerprint)
        self.digests += measures.digest
        self.sharpness.append(measures.sharpness)
        if look.faults:
            self._faults[len(self._captions)] = look.faults
        self._captions.append(look.captions)
        self._described.append(look.described)
        self._tokens.extend(look.tokens)
        self._ends.append(len(self._tokens))

    def __len__(self) -> int:
        return len(self._ends)

    def item(self, index: int) -> Look:
        """The item with an index that is in range."""
        measures = Measures(
            (self.widths[index], self.heights[index]),
            bytes(self.digests[index * DIGEST : (index + 1) * DIGEST]),
            self.fingerprints[index],
            self.colours[index],
            self.sharpness[index],
        )
        return Look(
            self.samples[index].name,
            measures if self.widths[index] else None,
            self._captions[index],
            tuple(self._tokens[self._ends[index - 1] if index else 0 : self._ends[index]]),
            bool(self._described[index]),
            self._faults.get(index, ()),
        )


def look(sample: Sample, count_tokens: Callable[[str], int], *, thumbnail: bool = False) -> Look:
    """Read, decode and measure a sample. What is wrong with it is among the faults; nothing is raised."""
    captions, faults = _captions(sample)
    measures, small = None, b""
    try:
        measures, small = _measure(_read(sample.picture), thumbnail=thumbnail)
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        faults.insert(0, _reason(error))
    kept = "\n".join(captions)[:_CAPTIONS_KEPT]
    described = bool(sample.text or sample.fields)
    return Look(sample.name, measures, kept, tuple(map(count_tokens, captions)), described, tuple(faults), small)


def _captions(sample: Sample) -> tuple[list[str], list[str]]:
    """The captions of the text member, or else of the JSON member, and what is wrong with either."""
    faults: list[str] = []
    fields: dict[str, Any] = {}
    captions: list[str] = []
    try:
        if sample.fields:
            _check_size(sample.fields, _LARGEST_TEXT)
            fields = sample.metadata()
    except Exception as error:  # of a file, or of JSON that is nested too deeply
        faults.append(_reason(error))
    try:
        if sample.text:
            _check_size(sample.text, _LARGEST_TEXT)
        found = captions_of(sample, SIDECAR, fields)
        "\n".join(found).encode()  # fails if JSON's escapes make no Unicode
        captions = found
        if any("\ufffd" in caption for caption in captions):
            faults.append("its caption is not UTF-8")
    except Exception as error:  # of a file, or of Unicode
        faults.append(_reason(error))
    return captions, faults


def _check_size(member: Member, limit: int) -> None:
    if member.size > limit:
        raise ValueError(f"{member.size:,} bytes, more than the {limit:,} that are read")


def _read(member: Member) -> bytes:
    """The whole of a picture's member. Raises `ValueError` if it is empty, too large, or shorter than it should be."""
    _check_size(member, _LARGEST_PICTURE)
    content = member.read()
    if len(content) < member.size:
        raise ValueError(f"cut short: {len(content):,} of {member.size:,} bytes")
    if not content:
        raise ValueError("empty")
    return content


def _measure(content: bytes, *, thumbnail: bool) -> tuple[Measures, bytes]:
    with Image.open(io.BytesIO(content)) as opened:
        size = upright_size(opened)
        opened.draft(None, (likeness.LONGER_SIDE, likeness.LONGER_SIDE))  # a JPEG file is decoded no larger than needed
        with _one_large if opened.width * opened.height > _LARGE else nullcontext():
            image = to_rgb(opened)
            grey = likeness.reduced(image)
            colour = likeness.mean_colour(image)
            small = _thumbnail(image) if thumbnail else b""
    digest = hashlib.sha256(content).digest()[:DIGEST]
    return Measures(size, digest, likeness.fingerprint(grey), colour, likeness.sharpness(grey)), small


def _thumbnail(image: Image.Image) -> bytes:
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    """What to tell of an error, in one line."""
    match error:
        case UnidentifiedImageError():
            return "not a picture, or of a kind that can't be read here"
        case Image.DecompressionBombError():
            return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels"
        case _:
            return " ".join(str(error).split()) or type(error).__name__
