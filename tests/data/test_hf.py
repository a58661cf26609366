"""Reading from a hub of data sets: a server that speaks as much of its interface as reading takes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import fsspec.config
import huggingface_hub.constants
import pytest

from littlecascade.data import patience
from littlecascade.data.places import describe, open_place, resolve
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError

Tar = Callable[..., bytes]


class Hub(BaseHTTPRequestHandler):
    """One data set, `user/cats`."""

    ranges: list[str]
    files: dict[str, bytes]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        self.answer([entry for path in paths for entry in self.entries() if entry["path"] == path])

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/user/cats/tree/main"):
            folder = path.removeprefix("/api/datasets/user/cats/tree/main").strip("/")
            deep = "recursive=true" in self.path.lower()
            inside = (entry for entry in self.entries() if entry["path"].startswith(f"{folder}/" if folder else ""))
            self.answer([entry for entry in inside if deep or entry["path"].rpartition("/")[0] == folder])
        elif path.startswith("/api/datasets/user/cats"):
            self.answer({"id": "user/cats", "sha": "2" * 40, "siblings": []})
        elif (name := path.removeprefix("/datasets/user/cats/resolve/main/")) in self.files:
            self.file(self.files[name])
        else:
            self.answer({"error": "not found"}, 404)

    def entries(self) -> list[dict[str, Any]]:
        folders = [{"type": "directory", "path": "train", "oid": "1" * 40}]
        return folders + [
            {"type": "file", "path": name, "size": len(data), "oid": f"{len(data):040}"}
            for name, data in self.files.items()
        ]

    def answer(self, value: object, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def file(self, content: bytes) -> None:
        asked = self.headers.get("Range", "")
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", asked):
            self.ranges.append(asked)
            part = content[int(match[1]) : int(match[2]) + 1]
            self.send(206, part, {"Content-Range": f"bytes {match[1]}-{match[2]}/{len(content)}"})
        else:
            self.send(200, content, {})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": "2" * 40, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def ranges(tar: Tar, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the hub was asked to send of its files."""
    ranges: list[str] = []
    monkeypatch.setattr(Hub, "ranges", ranges, raising=False)
    files = {"train/a.tar": tar({"a.jpg": b"A" * 100_000}), "train/b.tar": tar({"b.jpg": b"B"})}
    monkeypatch.setattr(Hub, "files", files, raising=False)
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.01)
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = {"endpoint": f"http://127.0.0.1:{hub.server_port}", "token": False}
    monkeypatch.setitem(fsspec.config.conf, "hf", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    yield ranges
    hub.shutdown()
    hub.server_close()


@pytest.mark.parametrize("place", ["/train", "/train/*.tar", "/train/{a,b}.tar", ""])
def test_a_data_set_of_the_hub_is_read_in_place(ranges: list[str], place: str) -> None:
    samples = find_samples(f"hf://datasets/user/cats{place}")
    assert [sample.name for sample in samples] == ["a.tar/a.jpg", "b.tar/b.jpg"]
    ranges.clear()
    assert [sample.picture.read() for sample in samples] == [b"A" * 100_000, b"B"]
    assert ranges == ["bytes=512-100511", "bytes=512-512"]
    assert describe(resolve(f"hf://datasets/user/cats{place}")).endswith(": 2 tar files, 113 kB")


def test_a_shard_of_the_hub_is_streamed(ranges: list[str]) -> None:
    with open_place("hf://datasets/user/cats/train/a.tar") as stream:
        assert stream.read() == Hub.files["train/a.tar"]


def test_what_the_hub_has_not_names_what_it_has(ranges: list[str]) -> None:
    with pytest.raises(InputError, match=r"looked for hf://datasets/user/cats/train/aa\.tar\. Did you mean 'a\.tar'"):
        resolve("hf://datasets/user/cats/train/aa.tar")
    with pytest.raises(InputError, match=r"No data at 'hf://datasets/user/dogs/train/a\.tar'"):
        resolve("hf://datasets/user/dogs/train/a.tar")


def test_a_hub_that_is_not_reached(ranges: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"can't be read: .*offline.*tried 4 times"):
        resolve("hf://datasets/user/mice/train/a.tar")
