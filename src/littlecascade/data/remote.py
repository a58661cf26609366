"""Files behind a URL, through fsspec: listing them, reading any part of them, reading them from end to end."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from littlecascade.data import patience
from littlecascade.data.patience import MissingError, NoRangesError, Patience, patiently, within
from littlecascade.errors import InputError, suggest

READERS = 16
"""Requests that may be under way at once, where many files are asked about."""
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a", "http", "https"), "'littlecascade[cloud]'"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs"), "adlfs"),
    "hf": "huggingface-hub",
}
"""What has to be installed for each scheme that can be read."""
_STATES = ("ETag", "etag", "blob_id", "md5Hash", "generation", "Digest", "LastModified", "Last-Modified", "mtime")
_SMALLEST, _FIRST, _LARGEST = 1 << 15, 1 << 18, 1 << 23  # bytes of one request while reading from end to end
_LEVELS = 4  # how far up a missing place is looked for
_QUICK = 1 / 10  # the share of the time limit under which the next request asks for twice as much


class Status(NamedTuple):
    """The part of `os.stat_result` that a remote file has too."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL. size: in bytes, -1 if its server does not tell. state: changes when its content does."""

    url: str
    size: int
    state: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(path_of(self.url)).name

    @property
    def suffix(self) -> str:
        """The suffix of its name, such as `.tar`."""
        return PurePosixPath(self.name).suffix

    def stat(self) -> Status:
        """As of a local file, but for the time of change: it is always 0, since `state` stands for it."""
        return Status(self.size, 0)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on. Raises `InputError` where they can't be had, within a few time limits."""
        try:
            return patiently(self.url, lambda: self._range(offset, size))
        except NoRangesError:
            raise InputError(
                f"{self.url} can be read from its start only, since its server sends no parts of files: "
                "download it and name the local file."
            ) from None

    def open(self) -> io.BufferedReader:
        """The whole file, to be read from its start to its end."""
        return io.BufferedReader(_Stream(self), 1 << 16)

    def _range(self, offset: int, size: int) -> bytes:
        """One request. Raises `NoRangesError`, or whatever the library below raises."""
        if size <= 0:
            return b""
        fs, path = filesystem(self.url)
        if fs.async_impl and not is_http(self.url):
            data = fs.cat_file(path, start=offset, end=offset + size)
        else:  # elsewhere `cat_file` reads ahead, and over HTTP the whole file from a server that sends no parts
            with fs.open(path, size=self.size, cache_type="none", block_size=size) as handle:
                handle.seek(offset)
                try:
                    data = handle.read(size)
                except ValueError:
                    raise NoRangesError from None
        if len(data) != size:
            raise EOFError(f"{len(data):,} bytes came instead of {size:,}")
        return data


class _Stream(io.RawIOBase):
    """A remote file from its start to its end; where a connection fails, a new one goes on from there.

    Parts are asked for one after another, larger ones while the answers are quick. A server without parts is read in
    one answer, and after a failure again from the start up to where the reading was.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._patience = Patience(file.url)
        self._position = 0
        self._rest = memoryview(b"")
        self._length = _FIRST
        self._in_parts = file.size >= 0
        self._handle: Any = None
        self._handle_position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            self._rest = memoryview(self._next())
            self._position += len(self._rest)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._drop()
        super().close()

    def _next(self) -> bytes:
        while self._position != self._file.size:
            try:
                data = self._part() if self._in_parts else self._piece()
            except NoRangesError:
                self._in_parts = False
            except Exception as error:
                self._drop()
                self._length = max(self._length // 4, _SMALLEST)
                self._patience.failed(error)
            else:
                if data is not None:
                    self._patience.worked()
                    return data
        return b""

    def _part(self) -> bytes:
        """The bytes from the position on, in a request of their own."""
        position, length = self._position, min(self._length, self._file.size - self._position)
        started = time.monotonic()
        data = within(patience.TIMEOUT, lambda: self._file._range(position, length))
        if time.monotonic() - started < _QUICK * patience.TIMEOUT:
            self._length = min(2 * self._length, _LARGEST)
        return data

    def _piece(self) -> bytes | None:
        """What comes next in the one answer that has the whole file, or None if it was read before."""
        if self._handle is None:
            self._handle = within(patience.TIMEOUT, self._connect)
            self._handle_position = 0
        handle = self._handle
        data: bytes = within(patience.TIMEOUT, lambda: handle.read(_LARGEST))
        if not data and self._file.size >= 0:
            raise EOFError(f"it ended after {self._handle_position:,} of {self._file.size:,} bytes")
        known = self._position - self._handle_position
        self._handle_position += len(data)
        return data[known:] if known < len(data) or not data else None

    def _connect(self) -> Any:
        fs, path = filesystem(self._file.url)
        return fs.open(path, block_size=0, size=max(self._file.size, 0))

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


def is_http(url: str) -> bool:
    """Whether a URL is read by plain HTTP, where a `?` starts a query and folders have no listing of their own."""
    return url.startswith(("http://", "https://"))


def path_of(url: str) -> str:
    """The path in a URL, readable: without the query of an HTTP address, and with its % escapes resolved."""
    return unquote(urlsplit(url).path) if is_http(url) else url.partition("://")[2] or url


def find(url: str) -> list[tuple[str, list[RemoteFile]]]:
    """The files and folders that a URL, which may be a glob, names: the URL of each, and the files in it.

    A file has itself in its list. Sorted by URL. Raises `MissingError` if there are none, or another `InputError`.
    """
    fs, path = filesystem(url)
    if "*" in url.partition("?")[0] if is_http(url) else re.search(r"[*?\[]", path):
        infos = _listed(url, lambda: fs.glob(path, detail=True))
    else:
        infos = [patiently(url, lambda: fs.info(path))]
    with ThreadPoolExecutor(READERS) as pool:
        found = [(_url(fs, info), pool.map(lambda entry: _file(fs, entry), _inside(fs, info))) for info in infos]
        if not found:
            raise MissingError(f"There is nothing at {url}.")
        return [(url, list(files)) for url, files in found]


def _listed(url: str, call: Callable[[], Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a listing tells of each file or folder, sorted by name; it may take ten times the limit of one request."""
    infos = patiently(url, call, 10 * patience.TIMEOUT)
    return [{"name": name, **infos[name]} for name in sorted(infos)]


def _inside(fs: Any, info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is known of the files in a folder but for hidden ones, or of the one that is no folder."""
    name, url = info["name"], _url(fs, info)
    if not (url.endswith("/") if is_http(url) else info["type"] == "directory"):
        return [info]
    inner = _linked(fs, url) if is_http(url) else _listed(url, lambda: fs.find(name, detail=True))
    return [entry for entry in inner if re.search(r"/[^./][^/]*$", entry["name"])]


def _linked(fs: Any, url: str, levels: int = 16) -> list[Mapping[str, Any]]:
    """The files that a page links to below itself, and those that its folders do, some levels deep."""
    links = patiently(url, lambda: fs.ls(url, detail=True))
    below = [link for link in sorted(links, key=lambda link: link["name"]) if link["name"] != url]
    return [
        entry
        for link in below
        for entry in (_linked(fs, link["name"], levels - 1) if link["name"].endswith("/") and levels else [link])
    ]


def nearby(url: str) -> str:
    """A sentence with the name most like the part of a URL that is missing, or nothing, as far as names are listed."""
    try:
        fs, path = filesystem(url)
        for _ in range(_LEVELS):
            path, _, name = path.rstrip("/").rpartition("/")
            folder = f"{path}/" if is_http(url) else path
            with suppress(FileNotFoundError):
                listed: list[str] = within(patience.TIMEOUT, lambda folder=folder: fs.ls(folder, detail=False))
                return suggest(name, [PurePosixPath(path_of(entry)).name for entry in listed])
    except Exception:  # it serves a message about something else, which must not be lost
        return ""
    return ""


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the URL as this file system wants it.

    Raises `InputError` for a scheme that nobody knows, and for one whose library is not installed.
    """
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0]
    if scheme not in _PACKAGES:
        raise InputError(f"{url}: there is no way to read from {scheme}://.{suggest(scheme, _PACKAGES)}")
    try:
        fs, path = url_to_fs(url, **_options(scheme))
    except ImportError:
        what = f"pip install {_PACKAGES[scheme]}"
        raise InputError(f"{url}: reading from {scheme}:// needs more to be installed: {what}") from None
    except ValueError as error:
        raise InputError(f"{url} can't be read: {error}.") from None
    if scheme in {"s3", "s3a"}:
        fs.retries = 1  # trying again is done here, under one limit
    return fs, path


def _options(scheme: str) -> Mapping[str, Any]:
    """What makes a file system keep to the time limit, and see what changes."""
    limit = patience.TIMEOUT
    if scheme in {"s3", "s3a"}:
        times = {"connect_timeout": limit, "read_timeout": limit, "retries": {"max_attempts": 0}}
        return {"config_kwargs": times, "use_listings_cache": False, "anon": is_anonymous()}
    if scheme in {"http", "https"}:
        import aiohttp

        # 'identity': a server that packs what it sends would shift every offset
        times = aiohttp.ClientTimeout(total=None, sock_connect=limit, sock_read=limit)
        client = {"timeout": times, "trust_env": True}
        return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}
    return {}


@lru_cache(maxsize=1)
def is_anonymous() -> bool:
    """Whether this machine has no keys for S3 at all: public buckets can be read without."""
    from botocore.session import Session

    return Session().get_credentials() is None


def _url(fs: Any, info: Mapping[str, Any]) -> str:
    return str(fs.unstrip_protocol(info["name"]))


def _file(fs: Any, info: Mapping[str, Any]) -> RemoteFile:
    url = _url(fs, info)
    if info.get("size") is None:  # some listings have names only
        info = patiently(url, lambda: fs.info(info["name"]))
    size = info.get("size")
    state = next((str(info[key]) for key in _STATES if info.get(key)), "")
    return RemoteFile(url, -1 if size is None else int(size), state)
