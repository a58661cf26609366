"""Every file and member of a source, damaged or not: the samples they make, and why the others belong to none."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from littlecascade.data.files import File, tars_of
from littlecascade.data.findings import Finding, Kind
from littlecascade.data.pipes import Pipe
from littlecascade.data.places import resolve
from littlecascade.data.remote import READERS
from littlecascade.data.samples import (
    PICTURE_SUFFIXES,
    SIDECAR_SUFFIXES,
    Group,
    LooseFiles,
    Sample,
    Samples,
    TarMembers,
    is_hidden,
    stem_and_suffix,
)
from littlecascade.data.sources import scan_tar
from littlecascade.data.tars import Entry, Problem
from littlecascade.errors import InputError

_Surveyed = tuple[Group, list[Finding]]


def survey(where: str | Sequence[str]) -> tuple[Sequence[Sample], list[Finding]]:
    """The samples of a source in the order of `find_samples`, and what of it is damaged or left out.

    A damaged tar is read as far as it goes. Raises `InputError` if there is no picture, and for a `pipe:`.
    """
    surveyed: list[_Surveyed] = []
    for found in resolve(where):
        for files in found.groups:
            tars = tars_of(files)
            surveyed.append(_sort(Group(LooseFiles(files)), apart={tar.name for tar in tars}))
            with ThreadPoolExecutor(READERS) as pool:
                surveyed += pool.map(_tar, tars)
    samples = Samples([some for some, _ in surveyed])
    findings = [finding for _, some in surveyed for finding in some]
    if not samples:
        places = where if isinstance(where, str) else ", ".join(where)
        reason = "".join(f" {finding.name} {finding.detail}." for finding in findings[:1])
        looked_for = ", ".join(sorted(PICTURE_SUFFIXES))
        raise InputError(f"No picture in {places!r}: looked for {looked_for} and .tar.{reason}")
    return samples, findings


def _tar(file: File) -> _Surveyed:
    """The samples of a tar, and what is wrong with its members or, under its own name, with itself."""
    assert not isinstance(file.path, Pipe)
    members, problems = TarMembers(file.path), list[Problem]()
    for item in scan_tar(file.path):
        if isinstance(item, Entry):
            members.append(item)
        else:
            problems.append(item)
    named = {problem.name for problem in problems}
    taken = {name for name in members.names if name in named}
    samples, others = _sort(Group(members, prefix=f"{file.path.name}/"))
    return samples, [*(_told(file.path.name, problem, taken) for problem in problems), *others]


def _told(tar: str, problem: Problem, taken: Container[str]) -> Finding:
    """A problem of a tar or of its member. `taken` are names that other members have."""
    if problem.fatal or not problem.name:
        return Finding(Kind.DAMAGED, tar, problem.reason)
    kind = Kind.CLASH if problem.name in taken else Kind.LEFT_OUT
    return Finding(kind, f"{tar}/{problem.name}", problem.reason)


def _sort(samples: Group, apart: Container[str] = ()) -> _Surveyed:
    """The samples that members make, and why each of the others belongs to none, but for those that stand `apart`."""
    unused = [name for name in samples.unused() if name not in apart]
    stems = {stem_and_suffix(name)[0] for name in unused}
    used = ((stem_and_suffix(sample.name)[0], sample.name) for sample in samples) if unused else ()
    names = {stem: name for stem, name in used if stem in stems}
    return samples, [*_alike(samples), *(_unused(name, names) for name in unused)]


def _unused(name: str, names: Mapping[str, str]) -> Finding:
    """Why a member belongs to no sample. `names` are those of the samples, by their stems."""
    stem, suffix = stem_and_suffix(name)
    if is_hidden(name):
        return Finding(Kind.LEFT_OUT, name, "is hidden")
    if suffix not in PICTURE_SUFFIXES.union(SIDECAR_SUFFIXES):
        return Finding(Kind.LEFT_OUT, name, "is neither a picture nor a caption")
    if taken := names.get(stem):
        return Finding(Kind.CLASH, name, f"has the stem of {taken}, which is used")
    return Finding(Kind.LEFT_OUT, name, "has no picture of its name beside it")


def _alike(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Samples whose stems differ in case only, so that one would overwrite the other on many systems."""
    folded = np.fromiter((hash(_folded(sample)) for sample in samples), dtype=np.int64, count=len(samples))
    _, firsts, counts = np.unique(folded, return_index=True, return_counts=True)
    if len(firsts) == len(folded):
        return
    first = {_folded(samples[place]): samples[place].name for place in firsts[counts > 1].tolist()}
    for sample in samples:
        other = first.get(_folded(sample), sample.name)
        if other != sample.name:
            yield Finding(Kind.CLASH, sample.name, f"differs from {other} in upper and lower case only")


def _folded(sample: Sample) -> str:
    return stem_and_suffix(sample.name)[0].casefold()
