"""Every file and member of a source, damaged or not: the samples they make, and why the others belong to none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from littlecascade.data.findings import Finding, Kind
from littlecascade.data.pipes import Pipe
from littlecascade.data.places import File, resolve
from littlecascade.data.remote import READERS, RemoteFile
from littlecascade.data.sources import PICTURE_SUFFIXES, SIDECAR_SUFFIXES, Member, Sample, group, scan_tar
from littlecascade.data.tars import Entry
from littlecascade.errors import InputError

Surveyed = tuple[list[Sample], list[Finding]]


def survey(where: str | Sequence[str]) -> Surveyed:
    """The samples of a source in the order of `find_samples`, and what of it is damaged or left out.

    A damaged tar is read as far as it goes. Raises `InputError` if there is no picture, and for a `pipe:`.
    """
    surveyed: list[Surveyed] = []
    for found in resolve(where):
        tars = [file for file in found.files if file.is_tar]
        with ThreadPoolExecutor(READERS) as pool:
            inside = dict(zip(tars, pool.map(_tar, tars), strict=True))
        for files in found.groups:
            loose = [(file.name, Member(_path(file), 0, file.size)) for file in files if not file.is_tar]
            surveyed += [_sort(loose), *(inside[file] for file in files if file.is_tar)]
    samples = [sample for some, _ in surveyed for sample in some]
    findings = [finding for _, some in surveyed for finding in some]
    if not samples:
        places = where if isinstance(where, str) else ", ".join(where)
        reason = "".join(f" {finding.name} {finding.detail}." for finding in findings[:1])
        looked_for = ", ".join(sorted(PICTURE_SUFFIXES))
        raise InputError(f"No picture in {places!r}: looked for {looked_for} and .tar.{reason}")
    return samples, findings


def _path(file: File) -> Path | RemoteFile:
    if isinstance(file.path, Pipe):
        raise InputError(f"{str(file.path)!r} can only be read from end to end: write what it gives to a file first.")
    return file.path


def _tar(file: File) -> Surveyed:
    """The samples of a tar, and what is wrong with its members or, under its own name, with itself."""
    path = _path(file)
    members: dict[str, Member] = {}
    findings: list[Finding] = []
    for item in scan_tar(path):
        if isinstance(item, Entry):
            members[item.name] = Member(path, item.offset, item.size)
            continue
        whole = item.fatal or not item.name
        kind = Kind.DAMAGED if whole else Kind.CLASH if item.name in members else Kind.LEFT_OUT
        findings.append(Finding(kind, path.name if whole else f"{path.name}/{item.name}", item.reason))
    samples, others = _sort(list(members.items()), prefix=f"{path.name}/")
    return samples, findings + others


def _sort(members: Sequence[tuple[str, Member]], prefix: str = "") -> Surveyed:
    """The samples that members make, and why each of the others belongs to none."""
    samples = group(members, prefix)
    used = {member for sample in samples for member in (sample.picture, sample.text, sample.fields)}
    names = {_stem(sample.name): sample.name for sample in samples}
    others = [_unused(prefix + name, names) for name, member in members if member not in used]
    return samples, [*_alike(samples), *others]


def _stem(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")).with_suffix(""))


def _unused(name: str, names: Mapping[str, str]) -> Finding:
    """Why a member belongs to no sample. `names` are those of the samples, by their stems."""
    path = PurePosixPath(name.replace("\\", "/"))
    suffix = path.suffix.lower()
    if not path.name or path.name.startswith("."):
        return Finding(Kind.LEFT_OUT, name, "is hidden")
    if suffix not in PICTURE_SUFFIXES | SIDECAR_SUFFIXES:
        return Finding(Kind.LEFT_OUT, name, "is neither a picture nor a caption")
    if taken := names.get(_stem(name)):
        return Finding(Kind.CLASH, name, f"has the stem of {taken}, which is used")
    return Finding(Kind.LEFT_OUT, name, "has no picture of its name beside it")


def _alike(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Samples whose stems differ in case only, so that one would overwrite the other on many systems."""
    first: dict[str, str] = {}
    for sample in samples:
        other = first.setdefault(_stem(sample.name).casefold(), sample.name)
        if other != sample.name:
            yield Finding(Kind.CLASH, sample.name, f"differs from {other} in upper and lower case only")
