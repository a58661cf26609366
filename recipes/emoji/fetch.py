"""Downloads pinned npm packages, checks hash and licence, and unpacks them safely."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from sources import Package


class FetchError(RuntimeError):
    """A package could not be had as pinned: the message names the package, what was found and what was expected."""


def fetch(package: Package, cache: Path) -> Path:
    """Returns the folder of the unpacked `package`, downloading it with `npm pack` when `cache` lacks it.

    Raises `FetchError` when npm fails, the archive's SHA-256 differs, the archive would write outside its folder,
    or the licence in the package's metadata is not the expected one.
    """
    label = f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}"
    folder = cache / label
    if not folder.is_dir():
        archive = _pack(package, cache) if not (cache / f"{label}.tgz").is_file() else cache / f"{label}.tgz"
        check_hash(archive, package)
        extract(archive, folder)
    check_licence(folder / "package", package)
    return folder / "package"


def check_hash(archive: Path, package: Package) -> None:
    """Raises `FetchError` when `archive` is not the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise FetchError(
            f"{archive} has SHA-256 {found}, expected {package.sha256} for {package.name}@{package.version}. "
            "Delete the file and run again; if it comes back the same, the published archive has changed."
        )


def check_licence(folder: Path, package: Package) -> None:
    """Raises `FetchError` unless `package.json`, and `info.json` of an icon set, name the expected licence."""
    found = {"package.json": json.loads((folder / "package.json").read_text(encoding="utf-8")).get("license")}
    if (folder / "info.json").is_file():
        found["info.json"] = json.loads((folder / "info.json").read_text(encoding="utf-8"))["license"].get("spdx")
    for file, licence in found.items():
        if licence != package.licence:
            raise FetchError(
                f"{file} of {package.name}@{package.version} states the licence {licence!r}, expected "
                f"{package.licence!r}. Its art must not be used before someone has read the new licence."
            )


def extract(archive: Path, folder: Path) -> None:
    """Unpacks `archive` into the new `folder`, all or nothing; a member that leaves the folder raises `FetchError`."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
    except tarfile.FilterError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise FetchError(f"{archive} holds an unsafe member: {error}") from error
    temporary.rename(folder)


def _pack(package: Package, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    reference = f"{package.name}@{package.version}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(cache), reference]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FetchError("npm was not found. Install Node.js, which brings it, and run again.") from error
    except subprocess.CalledProcessError as error:
        raise FetchError(f"npm could not fetch {reference}: {error.stderr.strip()}") from error
    return cache / done.stdout.split()[-1]
