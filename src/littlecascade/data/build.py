"""From a folder of pictures to a data set: tar shards with pictures of one size, their captions, and
what is known of them.

One pass in the order of the files, or two where copies are dropped. What is finished is kept: a build that was ended at
any moment goes on with the first shard that is not complete, and the shards come out the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import accumulate, islice
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np
from PIL import Image, ImageColor
from tqdm import tqdm

from littlecascade.data.alike import Comparison, alike
from littlecascade.data.captioner import Captioner
from littlecascade.data.captions import SIDECAR, TABLES, WAYS, Table, Wording
from littlecascade.data.lazy import Made
from littlecascade.data.outcome import Findings, Pictures, Report, named
from littlecascade.data.render import FORMATS, Marks, Refused, Rendered, Rendering, in_order, measure, render
from littlecascade.data.shards import Done, Journal, Line, ShardWriter, Target, write_whole
from littlecascade.data.sources import Member, Sample, find_samples
from littlecascade.errors import InputError, suggest

MODEL = "model:"
"""What a source of captions begins with that is a model."""
_FORM = 2  # of what a build writes: raise it when it changes, so that none is gone on with in another form
_TOGETHER = 8  # pictures that a model describes at once

Item = tuple[int, Rendered | Refused]
"""The number of a source, and what became of it."""


@dataclass(frozen=True)
class Settings:
    """What is built.

    captions: one of `captions.WAYS`, a table's path, or `model:` and the place of a model. drop_copies: of pictures
    that look alike, only the largest is kept. Raises `InputError` for what is out of range or unknown.
    """

    rendering: Rendering = field(default_factory=Rendering)
    captions: str = SIDECAR
    wording: Wording = field(default_factory=Wording)
    drop_copies: bool = False

    def __post_init__(self) -> None:
        rendering = self.rendering
        if rendering.format not in FORMATS:
            hint = suggest(rendering.format, FORMATS)
            raise InputError(f"There is no format {rendering.format!r}.{hint} Those are {', '.join(FORMATS)}.")
        if not 1 <= rendering.quality <= 100:
            raise InputError(f"A quality of {rendering.quality} is not from 1 to 100.")
        try:
            ImageColor.getrgb(rendering.background)
        except ValueError:
            raise InputError(
                f"{rendering.background!r} is not a colour: give a name, such as 'white', or '#rrggbb'."
            ) from None
        if self.captions not in WAYS and self.table is None and self.model is None:
            raise InputError(
                f"There are no captions to be had from {self.captions!r}.{suggest(self.captions, WAYS)} "
                f"Give {', '.join(WAYS)}, a table ({', '.join(TABLES)}), or {MODEL}PATH."
            )

    @property
    def table(self) -> Path | None:
        """The table that captions come from, if any."""
        return Path(self.captions) if self.captions.lower().endswith(TABLES) and self.model is None else None

    @property
    def model(self) -> str | None:
        """The model that captions come from, if any."""
        return self.captions.removeprefix(MODEL) if self.captions.startswith(MODEL) else None

    @property
    def working(self) -> Rendering:
        """What the workers are told: captions of a table or a model are not their business."""
        return replace(self.rendering, captions=self.captions if self.captions in WAYS else "")

    def to_json(self) -> Line:
        """By the names that the command line has for them."""
        rendering, fit = self.rendering, self.rendering.fit
        return {
            "size": fit.size,
            "fit": fit.fit,
            "crop": fit.crop,
            "ratios": list(fit.ratios),
            "resample": fit.filter,
            "format": rendering.format,
            "quality": rendering.quality,
            "background": rendering.background,
            "captions": self.captions,
            "labels": list(self.wording.labels),
            "style": self.wording.style,
            "trigger": self.wording.trigger,
            "min-side": rendering.smallest,
            "blurred": "drop" if rendering.drop_blurred else "report",
            "duplicates": "drop" if self.drop_copies else "report",
        }


def build(source: str, target: Target, settings: Settings, *, workers: int, overwrite: bool = False) -> Report:
    """Build a data set of a folder of pictures, or of any other source, or go on with it. Writes the report beside it.

    Raises `InputError` if there is nothing to build from, if what is at the target is not of this build (unless
    `overwrite`), or if captions can't be had. If no picture can be used, there is a report and no shard.
    """
    samples = find_samples(source, skip=lambda tar: target.owns(tar.path))
    given, unused = _given(settings, samples)
    plan = _plan(samples, target, settings)
    with target.held():
        begun = None if overwrite else _begun(source, target, plan)
        done = begun[1] if begun else []
        begin = done[-1][0].end if done else 0
        describe = Captioner(settings.model) if settings.model and begin < len(samples) else None
        if overwrite:
            target.clear()
        head = begun[0] if begun else {"plan": plan, "copies": _survey(samples, settings, workers)}
        journal = Journal(target, head, done)
        outcomes = _outcomes(samples, begin, dict(head["copies"]), settings, workers)
        packed = _packed(_captioned(outcomes, given, describe), settings)
        shards, findings = _written(packed, target, journal, done, end=len(samples))
        report = Report(
            source=source,
            settings=plan["settings"],
            shards=shards,
            kept=len(done),
            left_out=named(findings.left_out, samples),
            notes=named(findings.notes, samples),
            copies=_copies(journal, samples, target, shards),
            unused=unused,
            path=target.beside("report.json"),
        )
        if not shards:
            target.journal.unlink()
        write_whole(report.path, report.json())
    return report


def _given(settings: Settings, samples: Sequence[Sample]) -> tuple[list[list[str]] | None, list[str]]:
    """The captions of each sample that a table gives, if there is one, and its rows that are of no sample."""
    if settings.table is None:
        return None, []
    return Table.read(settings.table).match([sample.name for sample in samples])


def _plan(samples: Sequence[Sample], target: Target, settings: Settings) -> Line:
    """What is built of what: two builds with equal plans give the same."""
    stamp = lru_cache(maxsize=16)(lambda file: (getattr(file, "state", ""), file.stat().st_mtime_ns))
    digest = hashlib.sha256()
    for sample in samples:
        members = [member for member in (sample.picture, sample.text, sample.fields) if member]
        stamps = [(member.offset, member.size, *stamp(member.file)) for member in members]
        digest.update(json.dumps([sample.name, stamps]).encode())
    if settings.table is not None:
        digest.update(settings.table.read_bytes())
    limit = target.limit.samples or f"{target.limit.bytes} bytes"
    options = settings.to_json() | ({} if target.single else {"shard-size": limit})
    return {"form": _FORM, "pictures": len(samples), "state": digest.hexdigest()[:16], "settings": options}


def _begun(source: str, target: Target, plan: Line) -> tuple[Line, list[tuple[Done, Line]]] | None:
    """What there is of this build already, or None. Raises `InputError` if what is there is of another one."""
    begun = Journal.read(target)
    if begun is None:
        if target.shards():
            raise InputError(f"'{target.shards()[0]}' is there already: name another place, or add --overwrite.")
        return None
    former = begun[0]["plan"]
    if former == plan:
        return begun
    changes = [
        f"{key} was {former['settings'].get(key)!r} and is {value!r}"
        for key, value in plan["settings"].items()
        if former["settings"].get(key) != value
    ]
    if former.get("form") != plan["form"]:
        changes.append("by another version of littlecascade")
    if former["state"] != plan["state"]:
        changes.append(f"'{source}' has changed: {former['pictures']} pictures then, {plan['pictures']} now")
    raise InputError(
        f"'{target.path}' was begun otherwise ({'; '.join(changes)}): give what was given then, or another place, "
        "or add --overwrite to build it anew."
    )


def _survey(samples: Sequence[Sample], settings: Settings, workers: int) -> list[tuple[int, int]]:
    """Where copies are to be dropped: the number of each that is, and of the one like it that is kept, the largest."""
    if not settings.drop_copies:
        return []
    numbers, fingerprints, colours, sizes = array("I"), array("Q"), array("I"), array("Q")
    found = in_order(measure, samples, len(samples), settings.working, workers)
    for index, mark in enumerate(tqdm(found, "comparing", len(samples), unit=" pictures", disable=None)):
        if mark is not None:
            numbers.append(index)
            fingerprints.append(mark.fingerprint)
            colours.append(mark.colour)
            sizes.append(mark.pixels)
    dropped: list[tuple[int, int]] = []
    with Comparison(Made(len(numbers), lambda place: samples[numbers[place]].picture)) as same:
        for group in alike(fingerprints, colours, same):
            kept = max(group, key=lambda place: (sizes[place], -place))
            dropped += [(numbers[place], numbers[kept]) for place in group if place != kept]
    return dropped


def _copies(
    journal: Journal, samples: Sequence[Sample], target: Target, shards: Sequence[Done]
) -> Sequence[Sequence[str]]:
    """The names of those that were written and are copies of one another, compared as they lie in the shards."""
    ends = list(accumulate(shard.samples for shard in shards))
    count = ends[-1] if ends else 0

    @cache  # so that what is only needed of look-alikes is read when there are some
    def column(name: str) -> np.ndarray[Any, Any]:
        return Pictures.column(name, count, (line["pictures"] for line in journal.lines()))

    def picture(place: int) -> Member:
        shard = target.shard(bisect_right(ends, place))
        return Member(shard, int(column("block")[place]) * BLOCKSIZE, int(column("size")[place]))

    with Comparison(Made(count, picture)) as same:
        groups = [array("I", group) for group in alike(column("fingerprint"), column("colour"), same)]
    return Made(len(groups), lambda number: [samples[column("source")[place]].name for place in groups[number]])


def _outcomes(
    samples: Sequence[Sample], begin: int, dropped: dict[int, int], settings: Settings, workers: int
) -> Iterator[Item]:
    """What becomes of each sample from number `begin` on, in order."""
    rest = (samples[index] for index in range(begin, len(samples)) if index not in dropped)
    rendered = in_order(render, rest, len(samples) - begin, settings.working, workers)
    with tqdm(total=len(samples), initial=begin, desc="building", unit=" pictures", disable=None) as bar:
        for index in range(begin, len(samples)):
            if index in dropped:
                yield index, Refused("duplicate", f"looks like {samples[dropped[index]].name}")
            else:
                yield index, next(rendered)
            bar.update()


def _captioned(items: Iterator[Item], given: list[list[str]] | None, describe: Captioner | None) -> Iterator[Item]:
    """The same with the captions of a table or of a model, where there is one."""
    while batch := list(islice(items, _TOGETHER if describe else 1)):
        pictures = [(index, outcome) for index, outcome in batch if isinstance(outcome, Rendered)]
        if describe and pictures:
            images = [Image.open(io.BytesIO(outcome.picture)).convert("RGB") for _, outcome in pictures]
            for (_, outcome), caption in zip(pictures, describe(images), strict=True):
                outcome.captions[:] = [caption] if caption else []
        elif given:
            for index, outcome in pictures:
                outcome.captions[:] = given[index]
        yield from batch


@dataclass(frozen=True, slots=True)
class _Packed:
    """A picture that is ready to be written: members by suffix."""

    members: dict[str, bytes]
    marks: Marks
    notes: dict[str, str]


def _packed(items: Iterable[Item], settings: Settings) -> Iterator[tuple[int, _Packed | Refused]]:
    """The members of each sample, its captions worded."""
    for index, outcome in items:
        if isinstance(outcome, Refused):
            yield index, outcome
            continue
        captions = settings.wording.apply(outcome.captions)
        fields = outcome.fields | ({"caption": captions[0]} if captions else {})
        members = {
            settings.rendering.format: outcome.picture,
            "txt": "\n".join(captions).encode("utf-8", "replace"),
            "json": json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace"),
        }
        notes = outcome.notes if captions else outcome.notes | {"uncaptioned": ""}
        yield index, _Packed(members, outcome.marks, notes)


def _written(
    items: Iterator[tuple[int, _Packed | Refused]],
    target: Target,
    journal: Journal,
    done: Sequence[tuple[Done, Line]],
    *,
    end: int,
) -> tuple[list[Done], Findings]:
    """Write shard after shard, behind those done, into the journal, too. All of the shards, and what was found."""
    shards = [shard for shard, _ in done]
    findings = Findings()
    for _, line in done:
        findings.extend(Findings.from_json(line))
    for shard, found in _shards(items, target, done=tuple(shards), end=end):
        findings.extend(found)
        if shard is not None:
            journal.add(shard, found.to_json())
            shards.append(shard)
    return shards, findings


def _shards(
    items: Iterator[tuple[int, _Packed | Refused]], target: Target, *, done: Sequence[Done], end: int
) -> Iterator[tuple[Done | None, Findings]]:
    """Write shard after shard, behind those done. Gives each when it is complete, and what was found on the way.

    `end` is the number of sources.
    """
    number = len(done)
    count = sum(shard.samples for shard in done)
    item = next(items, None)
    while item is not None:
        found = Findings()
        with ShardWriter(target.shard(number), target.limit) as writer:
            while item is not None:
                index, outcome = item
                if isinstance(outcome, Refused):
                    found.refused(index, outcome.kind, outcome.detail)
                elif place := writer.add(f"{count + 1:06}", outcome.members):
                    found.written(index, outcome.marks, place, outcome.notes)
                    count += 1
                else:
                    break
                item = next(items, None)
            shard = writer.close(end if item is None else item[0]) if writer.samples else None
        yield shard, found
        number += 1
