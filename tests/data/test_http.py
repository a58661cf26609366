"""Reading from web servers: those that send parts of files and those that don't, whole and unreliable ones."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

import pytest

from littlecascade.data import patience
from littlecascade.data.places import open_place, resolve
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError

Tar = Callable[..., bytes]


class Site(ThreadingHTTPServer):
    """Serves `files`. What is true of all answers can be set; sent: bytes of files that went out.

    ranges: parts are sent where asked for. sized: answers tell their length. status: of every answer to GET.
    after: bytes of a body after which the next `faults` connections are cut, or fall silent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges, self.sized, self.status = True, True, 200
        self.after, self.faults, self.silent = 0, 0, False
        self.sent = self.requests = 0
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site, path = self.server, unquote(urlsplit(self.path).path)
        site.requests += 1
        if site.status != 200:
            self.send_error(site.status)
        elif path in site.files:
            self.send_file(site.files[path])
        elif path.endswith("/"):
            below = {name[len(path) :].partition("/") for name in site.files if name.startswith(path)}
            links = "".join(f'<a href="{quote(name)}{slash}">{name}</a>' for name, slash, _ in sorted(below))
            self.send_file(f'<a href="../">up</a>{links}'.encode(), "text/html", counted=False)
        else:
            self.send_error(404)

    def send_file(self, content: bytes, kind: str = "application/x-tar", *, counted: bool = True) -> None:
        site = self.server
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if site.ranges else None
        body = content[int(asked[1]) : int(asked[2]) + 1] if asked else content
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", kind)
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(content)}")
        if site.sized:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if counted and site.faults and len(body) > site.after:
            site.faults -= 1
            self.wfile.write(body[: site.after])
            if site.silent:
                site.ended.wait()
            return
        for start in range(0, len(body), 1 << 16):
            self.wfile.write(body[start : start + (1 << 16)])
            site.sent += len(body[start : start + (1 << 16)]) * counted


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(patience, "TIMEOUT", 2.0)
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.0)
    site = Site()
    threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
    yield site
    site.ended.set()
    site.shutdown()
    site.server_close()


def random_bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def test_a_shard_is_read_in_place(tar: Tar, site: Site) -> None:
    site.files["/x.tar"] = tar(
        {f"{index}.jpg": random_bytes(800_000 + index) for index in range(5)} | {"4.txt": b"four"}
    )
    samples = find_samples(f"{site.url}/x.tar?key=a&b=*")
    assert [sample.name for sample in samples] == [f"x.tar/{index}.jpg" for index in range(5)]
    assert site.sent < len(site.files["/x.tar"]) / 2
    site.sent = 0
    assert samples[4].picture.read() == random_bytes(800_004)
    assert samples[4].captions() == ["four"]
    assert site.sent == 800_008


def test_listings_are_folders_and_match_globs(tar: Tar, site: Site) -> None:
    for name in ("/d/t-0.tar", "/d/t-1.tar"):
        site.files[name] = tar({f"{name[-5]}.jpg": b"."})
    site.files |= {"/d/deep/er/a b.jpg": b"AB", "/d/deep/er/a b.txt": b"a b", "/d/.hidden.jpg": b""}
    in_tars = ["t-0.tar/0.jpg", "t-1.tar/1.jpg"]
    assert [sample.name for sample in find_samples(f"{site.url}/d/t-*.tar")] == in_tars
    assert [sample.name for sample in find_samples(f"{site.url}/d/t-{{0..1}}.tar")] == in_tars
    samples = find_samples(f"{site.url}/d/")
    assert [sample.name for sample in samples] == ["deep/er/a b.jpg", *in_tars]
    assert (samples[0].picture.read(), samples[0].captions()) == (b"AB", ["a b"])
    with pytest.raises(InputError, match=r"looked for .*/d/t-00\.tar\. Did you mean 't-0\.tar'"):
        resolve(f"{site.url}/d/t-00.tar")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_any_server_can_be_streamed(site: Site, ranges: bool, sized: bool) -> None:
    site.ranges, site.sized = ranges, sized
    content = site.files["/x.tar"] = random_bytes(2_500_000)
    with open_place(f"{site.url}/x.tar") as stream:
        assert stream.read(700_000) == content[:700_000]
        assert stream.read() == content[700_000:]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("silent", [True, False])
def test_a_stream_goes_on_after_a_fault(
    site: Site, ranges: bool, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "ATTEMPTS", 20)  # a busy machine may be late as well
    content = site.files["/x.tar"] = random_bytes(3_000_000)
    with open_place(f"{site.url}/x.tar") as stream:
        assert stream.read(1000) == content[:1000]
        site.ranges, site.after, site.faults, site.silent = ranges, 150_000, 2, silent
        assert stream.read() == content[1000:]
    assert site.faults == 0


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stream_that_always_ends_at_one_place_is_given_up(site: Site, ranges: bool) -> None:
    site.files["/x.tar"] = random_bytes(1_000_000)
    stream = open_place(f"{site.url}/x.tar")
    site.ranges, site.after, site.faults = ranges, 20_000, 10**9
    with stream, pytest.raises(InputError, match=r"/x\.tar can't be read: .* \(tried 4 times\)\.$"):
        stream.read()


def test_nothing_is_waited_for_without_end(tar: Tar, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/x.tar"] = tar({"a.jpg": random_bytes(500_000)})
    (sample,) = find_samples(f"{site.url}/x.tar")
    monkeypatch.setattr(patience, "TIMEOUT", 0.3)
    site.faults, site.silent = 10**9, True
    for read in (sample.picture.read, lambda: find_samples(f"{site.url}/x.tar")):
        started = time.monotonic()
        with pytest.raises(InputError, match="can't be read"):
            read()
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("ranges", "sized", "said"),
    [(False, True, "its server sends no parts of files: download it"), (True, False, "has no known size")],
)
def test_a_server_that_no_index_can_be_made_of(tar: Tar, site: Site, ranges: bool, sized: bool, said: str) -> None:
    site.ranges, site.sized = ranges, sized
    site.files["/x.tar"] = tar({"a.jpg": random_bytes(1000)})
    with pytest.raises(InputError, match=said):
        find_samples(f"{site.url}/x.tar")
    assert site.sent <= 2 * len(site.files["/x.tar"])


@pytest.mark.parametrize(
    ("status", "said", "most"),
    [
        (403, r"No permission to read http://.*/x\.tar", 2),
        (410, "No data at 'http://", 6),
        (400, r"can't be read: 400.*\(tried once\)", 2),
        (503, r"can't be read: 503.*\(tried 4 times\)", 8),
    ],
)
def test_refusals_say_why(site: Site, status: int, said: str, most: int) -> None:
    site.status = status
    with pytest.raises(InputError, match=said):
        resolve(f"{site.url}/x.tar")
    assert site.requests <= most


def test_a_server_that_is_busy_is_asked_again(tar: Tar, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.5)
    site.files["/x.tar"] = tar({"a.jpg": b"A"})
    site.status = 503
    threading.Timer(0.7, lambda: setattr(site, "status", 200)).start()
    assert [sample.picture.read() for sample in find_samples(f"{site.url}/x.tar")] == [b"A"]
