"""One picture's way into a data set, from the bytes of its file to those of its member. Runs in worker processes."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from littlecascade.data import likeness
from littlecascade.data.captions import captions_of
from littlecascade.data.fit import Fit, Fitted, fitted
from littlecascade.data.samples import Sample
from littlecascade.errors import InputError

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_CHUNK = 4  # pictures that go to a worker at once
_AHEAD = 3  # chunks that may wait, for each worker
_MOST_WORKERS = 61  # that Windows can wait for
_LARGEST = 1 << 30  # bytes of a picture's file

T = TypeVar("T")


@dataclass(frozen=True)
class Rendering:
    """What becomes of every picture.

    format: one of `FORMATS`. quality: 1 to 100, of jpg and webp. captions: where they come from, one of
    `captions.WAYS`, or empty for nowhere. smallest: pictures with a shorter side, in pixels, are left out.
    drop_blurred: so are those whose result is less sharp than `likeness.BLURRED`.
    """

    fit: Fit = field(default_factory=Fit)
    format: str = "jpg"
    quality: int = 95
    background: str = "white"
    captions: str = "sidecar"
    smallest: int = 0
    drop_blurred: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a picture is left out: the kind of problem, and what was found."""

    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """What shows copies of a picture: fingerprint and mean colour (0xRRGGBB) of the result, pixels of the original."""

    fingerprint: int
    colour: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture's member, its captions, its JSON fields, its marks, and by kind what is worth to be reported."""

    picture: bytes
    captions: list[str]
    fields: dict[str, Any]
    marks: Marks
    notes: dict[str, str] = field(default_factory=dict)


def render(sample: Sample, rendering: Rendering) -> Rendered | Refused:
    """Read, fit, judge and encode a sample's picture, and find its captions. Never raises for a damaged file."""
    fit = _fit(sample, rendering)
    if isinstance(fit, Refused):
        return fit
    picture, notes = fit.picture, dict(fit.notes)
    fields: dict[str, Any] = {}
    captions: list[str] = []
    try:
        fields = sample.metadata()
        captions = captions_of(sample, rendering.captions, fields) if rendering.captions else []
    except (InputError, OSError, RecursionError) as error:  # the last of JSON that is nested without end
        notes["unreadable"] = str(error)
    encoded = _encoded(picture.image, rendering)
    fields |= {
        "width": picture.image.width,
        "height": picture.image.height,
        "original_width": picture.original[0],
        "original_height": picture.original[1],
        "crop_box": list(picture.box),
        "sha256": hashlib.sha256(encoded).hexdigest(),  # of the file that was read it would take 8 % of a build
        "source": sample.name,
    }
    return Rendered(encoded, captions, fields, fit.marks, notes)


def measure(sample: Sample, rendering: Rendering) -> Marks | None:
    """The marks that `render` gives of a picture, or None if it leaves the picture out."""
    fit = _fit(sample, rendering)
    return None if isinstance(fit, Refused) else fit.marks


@dataclass(frozen=True, slots=True)
class _Fit:
    """A picture in its new size, its marks, and by kind what is worth to be reported."""

    picture: Fitted
    marks: Marks
    notes: dict[str, str]


def _fit(sample: Sample, rendering: Rendering) -> _Fit | Refused:
    """Bring a picture to size and judge the result, or say why it can't be used."""
    if sample.picture.size > _LARGEST:
        return Refused("damaged", f"{sample.picture.size:,} bytes are too many for a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them becomes an error
            with Image.open(io.BytesIO(sample.picture.read())) as opened:
                if min(opened.size) < rendering.smallest:
                    return Refused("small", "{}x{}".format(*opened.size))
                picture = fitted(opened, rendering.fit, rendering.background)
    except InputError:  # of a server
        raise
    except UnidentifiedImageError:
        return Refused("damaged", "not a picture, or of a kind that can't be read here")
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        return Refused("damaged", " ".join(str(error).split()) or type(error).__name__)
    return _judged(picture, rendering)


def _judged(picture: Fitted, rendering: Rendering) -> _Fit | Refused:
    grey = likeness.reduced(picture.image)
    sharpness = likeness.sharpness(grey)
    notes: dict[str, str] = {}
    if sharpness < likeness.BLURRED:
        notes["blurred"] = f"sharpness {sharpness:.1f}, under {likeness.BLURRED:g}"
        if rendering.drop_blurred:
            return Refused("blurred", notes["blurred"])
    if picture.enlarged:
        notes["enlarged"] = "{}x{} to {}x{}".format(*picture.original, *picture.image.size)
    colour = likeness.mean_colour(picture.image)
    marks = Marks(likeness.fingerprint(grey), colour, picture.original[0] * picture.original[1])
    return _Fit(picture, marks, notes)


def _encoded(image: Image.Image, rendering: Rendering) -> bytes:
    buffer = io.BytesIO()
    options = {} if rendering.format == "png" else {"quality": rendering.quality}
    image.save(buffer, FORMATS[rendering.format], **options)
    return buffer.getvalue()


def in_order(
    function: Callable[[Sample, Rendering], T],
    samples: Iterable[Sample],
    count: int,
    rendering: Rendering,
    workers: int,
) -> Iterator[T]:
    """What a function at the top of a module makes of each of `count` samples, in order, by `workers` processes.

    The workers run ahead by a bounded number. Where there is little to do, this process does it. Raises `InputError`
    if the system ends a worker.
    """
    workers = min(workers, _MOST_WORKERS, count // (_CHUNK * _AHEAD))
    if workers < 2:
        yield from (function(sample, rendering) for sample in samples)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    waiting: deque[Future[list[T]]] = deque()
    try:
        for chunk in _chunks(samples):
            waiting.append(pool.submit(_each, function, chunk, rendering))
            if len(waiting) > workers * _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "The system ended a worker process, most likely for lack of memory: give fewer, as in --workers 1. "
            "The same command goes on from the last finished shard."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """What a worker does first: it leaves Ctrl-C to the process that started it, and arranges to end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _each(function: Callable[[Sample, Rendering], T], samples: Iterable[Sample], rendering: Rendering) -> list[T]:
    return [function(sample, rendering) for sample in samples]


def _chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
