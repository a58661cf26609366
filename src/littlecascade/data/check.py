"""What is in a data set and what is wrong with it: every sample is looked at once and held against what is wanted.

Threads do the looking: Pillow and hashlib let them run side by side, as fast as processes do and without their start.
Pictures are let go at once: of each, its captions, its problems and about 100 bytes are kept.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from tqdm import tqdm

from littlecascade.data.alike import Comparison, alike
from littlecascade.data.buckets import OFFICIAL, Buckets, parse_ratios
from littlecascade.data.findings import Finding, Kind
from littlecascade.data.lazy import Made
from littlecascade.data.likeness import BLURRED
from littlecascade.data.look import DIGEST, Look, Looks, Measures, look
from littlecascade.data.samples import Sample
from littlecascade.data.summary import Summary
from littlecascade.data.survey import survey

_AHEAD = 4  # looks that may wait for their turn, for each thread


@dataclass(frozen=True)
class Wanted:
    """What a data set is held against.

    size: of the buckets, as the side in pixels of a square with their area. ratios: theirs of width to height.
    tokens: how many of a caption a text encoder reads, the two that begin and end it included.
    """

    size: int = 1024
    ratios: tuple[str, ...] = OFFICIAL
    tokens: int = 77

    def __post_init__(self) -> None:
        """Raises `InputError` for what is no ratio, and where one leaves no side."""
        _ = self.buckets.sizes

    @cached_property
    def buckets(self) -> Buckets:
        """The sizes that pictures go to."""
        return Buckets(self.size, parse_ratios(self.ratios))


@dataclass(frozen=True)
class Report:
    """`looks` are in the order of the samples, without thumbnails; `findings` of one kind in the order of `Kind`."""

    wanted: Wanted
    looks: Sequence[Look]
    findings: Sequence[Finding]

    def of(self, kind: Kind) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind is kind]

    @property
    def clean(self) -> bool:
        """Whether nothing found is a problem."""
        return not any(finding.kind.is_problem for finding in self.findings)

    @cached_property
    def summary(self) -> Summary:
        """Counts of sizes, buckets and tokens."""
        return Summary.of(self.looks, self.wanted.buckets)

    def to_json(self) -> dict[str, Any]:
        """The whole report as values that JSON has."""
        findings = {kind.value: [{"name": f.name, "detail": f.detail} for f in self.of(kind)] for kind in Kind}
        return {"wanted": asdict(self.wanted), **self.summary.to_json(), "findings": findings}


def check(
    where: str | Sequence[str],
    wanted: Wanted,
    count_tokens: Callable[[str], int],
    thumbnail: Callable[[bytes], object] | None = None,
) -> Report:
    """Look at every sample of a source, as `find_samples` takes it, and at the members that belong to none.

    `count_tokens` gives the length of a caption. `thumbnail`, if given, is called for each sample in order with a
    JPEG file of at most 160 x 160 pixels, or with nothing if the picture can't be decoded. Raises `InputError` as
    `survey` does.
    """
    samples, findings = survey(where)
    looks = Looks(samples)
    with warnings.catch_warnings(), tqdm(total=len(samples), desc="checking", unit="picture", disable=None) as bar:
        warnings.simplefilter("ignore")  # Pillow's, about files that it can read
        for seen in _in_order(samples, partial(look, count_tokens=count_tokens, thumbnail=thumbnail is not None)):
            if thumbnail is not None:
                thumbnail(seen.thumbnail)
            looks.append(seen)
            bar.update()
    findings += [*_faults(looks, wanted), *_doubles(looks)]
    order = list(Kind)
    return Report(wanted, looks, sorted(findings, key=lambda finding: order.index(finding.kind)))


def _in_order(samples: Sequence[Sample], function: Callable[[Sample], Look]) -> Iterator[Look]:
    """The function of each sample, in order, computed by threads that run ahead by a bounded number."""
    threads = os.cpu_count() or 1
    waiting: deque[Future[Look]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for sample in samples:
            waiting.append(pool.submit(function, sample))
            if len(waiting) > threads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _faults(looks: Sequence[Look], wanted: Wanted) -> Iterator[Finding]:
    """What is wrong with each sample by itself."""
    for seen in looks:
        yield from (Finding(Kind.DAMAGED, seen.name, fault) for fault in seen.faults)
        if not seen.tokens:
            yield Finding(Kind.EMPTY if seen.described else Kind.UNCAPTIONED, seen.name)
        elif max(seen.tokens) > wanted.tokens:
            yield Finding(Kind.LONG, seen.name, f"{max(seen.tokens)} tokens")
        if seen.measures:
            yield from _shortcomings(seen.name, seen.measures, wanted)


def _shortcomings(name: str, measures: Measures, wanted: Wanted) -> Iterator[Finding]:
    width, height = measures.size
    bucket = wanted.buckets.nearest(width, height)
    if width < bucket[0] or height < bucket[1]:
        yield Finding(Kind.SMALL, name, f"{width}x{height}, its bucket is {bucket[0]}x{bucket[1]}")
    if measures.sharpness < BLURRED:
        yield Finding(Kind.BLURRED, name, f"sharpness {measures.sharpness:.1f}, under {BLURRED:g}")


def _doubles(looks: Looks) -> Iterator[Finding]:
    """Pictures whose file, or whose look, is that of one before them."""
    names = Made(len(looks), lambda index: looks.samples[index].name)
    decoded = np.flatnonzero(np.asarray(looks.widths))
    digests = np.frombuffer(looks.digests, dtype=f"S{DIGEST}")[decoded]
    _, firsts, digest_of = np.unique(digests, return_index=True, return_inverse=True)
    originals = decoded[firsts[digest_of]]
    for copy, original in zip(decoded.tolist(), originals.tolist(), strict=True):
        if copy != original:
            yield Finding(Kind.COPY, names[copy], f"the same file as {names[original]}")
    unlike = np.unique(originals)
    fingerprints, colours = (np.asarray(column)[unlike] for column in (looks.fingerprints, looks.colours))
    with Comparison(Made(len(unlike), lambda place: looks.samples[unlike[place]].picture)) as same:
        for group in alike(fingerprints, colours, same):
            original, *others = (names[unlike[place]] for place in group)
            yield from (Finding(Kind.ALIKE, name, f"looks like {original}") for name in others)
