"""Reading from an S3 server, straight and through a connection that is cut, slow or silent."""

from __future__ import annotations

import io
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import fsspec.config
import moto.settings
import pytest
from moto.server import ThreadedMotoServer

from littlecascade.data import patience, remote
from littlecascade.data.buckets import Buckets
from littlecascade.data.cache import PIXELS, Cache
from littlecascade.data.places import describe, open_place, resolve
from littlecascade.data.sources import find_samples
from littlecascade.data.table import Source
from littlecascade.errors import InputError

Port = int
Tar = Callable[..., bytes]
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Line:
    """A TCP proxy on a port of its own that spoils answers. sent: bytes that clients got.

    after: bytes of answers that a connection lets through before it is cut or falls silent, None for all of them.
    faults: connections that are spoilt, counted down; the later ones are whole. pause: seconds before each piece.
    """

    def __init__(self, target: Port) -> None:
        self.target = target
        self.after: int | None = None
        self.silent = False
        self.faults = 10**9
        self.pause = 0.0
        self.sent = 0
        self.connections = 0
        self._ended = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: Port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.close()

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        left = self.after
        with suppress(OSError):
            while data := server.recv(1 << 16):
                time.sleep(self.pause)
                if left is not None and len(data) >= left and self.faults > 0:
                    self.faults -= 1
                    client.sendall(data[:left])
                    if self.silent:
                        self._ended.wait()
                    break
                left = left if left is None else left - len(data)
                client.sendall(data)
                self.sent += len(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server() -> Iterator[Port]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Callable[[Port], None]:
    """Sets the port that S3 is read from, with limits short enough for a test."""
    monkeypatch.setattr(patience, "TIMEOUT", 3.0)
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.0)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    remote.is_anonymous.cache_clear()
    return lambda port: monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://127.0.0.1:{port}"})


@pytest.fixture(scope="module")
def client(server: Port) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


@pytest.fixture
def s3(client: Any, server: Port, point: Callable[[Port], None]) -> Iterator[Any]:
    """A client of the server with one bucket, `pictures`, whose content is gone afterwards."""
    point(server)
    client.create_bucket(Bucket="pictures")
    yield client
    for entry in client.list_objects_v2(Bucket="pictures").get("Contents", []):
        client.delete_object(Bucket="pictures", Key=entry["Key"])


@pytest.fixture
def line(server: Port, s3: Any, point: Callable[[Port], None]) -> Iterator[Line]:
    """A connection to the server that can be spoilt; all reading goes through it."""
    line = Line(server)
    point(line.port)
    yield line
    line.close()


def random_bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def test_it_reads_what_the_local_files_hold(tar: Tar, s3: Any, tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir()
    contents = {
        "train-000.tar": tar({"a.jpg": b"A" * 900, "a.txt": b"an a\n", "a.json": b'{"n": 1}'}),
        "train-001.tar": tar({"b.png": b"", "c.png": b"C"}),
        "loose/d.webp": b"D",
        "loose/d.txt": "ä d".encode(),
        "loose/.hidden.png": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        s3.put_object(Bucket="pictures", Key=f"data/{name}", Body=content)
    for place in (
        "",
        "/",
        "/train-{000..001}.tar",
        "/train-*.tar",
        "/loose",
        "/train-001.tar",
        "/loose/*",
        "/*/d.???*",
    ):
        local, distant = find_samples(f"{tmp_path}{place}"), find_samples(f"s3://pictures/data{place}")
        assert [sample.name for sample in distant] == [sample.name for sample in local]
        for one, other in zip(local, distant, strict=True):
            assert other.picture.read() == one.picture.read()
            assert (other.captions(), other.metadata()) == (one.captions(), one.metadata())
    assert describe(resolve("S3://pictures/data/*.tar")) == "S3://pictures/data/*.tar: 2 tar files, 20.5 kB"


def test_an_index_needs_the_headers_only(tar: Tar, line: Line, s3: Any) -> None:
    shard = tar({f"{index}.jpg": random_bytes(2_000_000) for index in range(5)})
    s3.put_object(Bucket="pictures", Key="x.tar", Body=shard)
    samples = find_samples("s3://pictures/x.tar")
    assert len(samples) == 5
    assert line.sent < len(shard) / 5
    before = line.sent
    assert samples[3].picture.read() == random_bytes(2_000_000)
    assert line.sent - before < 2_100_000


def test_samples_can_be_sent_to_other_processes(tar: Tar, s3: Any) -> None:
    s3.put_object(Bucket="pictures", Key="x.tar", Body=tar({"a.jpg": b"A"}))
    here, there = multiprocessing.Pipe()
    here.send(find_samples("s3://pictures/x.tar"))
    (sample,) = there.recv()
    assert sample.picture.read() == b"A"


def test_a_cache_is_made_anew_when_the_remote_file_changes(tar: Tar, s3: Any, tmp_path: Path) -> None:
    from PIL import Image

    def upload(colour: str) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "bmp")
        s3.put_object(Bucket="pictures", Key="x.tar", Body=tar({"a.bmp": buffer.getvalue()}))

    def first_pixel() -> list[int]:
        source = Source("x", find_samples("s3://pictures/x.tar"), Buckets(8, multiple=1))
        return (Cache(source, [PIXELS], tmp_path).column("pixels", [0])[0, :, 0, 0] * 255).tolist()

    upload("red")
    assert [first_pixel(), first_pixel()] == [[255, 0, 0]] * 2
    assert len(list(tmp_path.glob("pixels-*"))) == 1
    upload("blue")
    assert first_pixel() == [0, 0, 255]


@pytest.mark.parametrize("after", [90_000, 500_000])
def test_a_stream_outlives_cut_connections(line: Line, s3: Any, after: int) -> None:
    content = random_bytes(1_200_000)
    s3.put_object(Bucket="pictures", Key="x.tar", Body=content)
    with open_place("s3://pictures/x.tar") as stream:
        line.after = after  # every connection from now on ends after so many bytes
        assert stream.read() == content
    assert line.connections > len(content) / after


def test_a_stream_outlives_silent_connections(line: Line, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random_bytes(1_000_000)
    s3.put_object(Bucket="pictures", Key="x.tar", Body=content)
    with open_place("s3://pictures/x.tar") as stream:
        assert stream.read(10) == content[:10]
        monkeypatch.setattr(patience, "TIMEOUT", 0.7)
        monkeypatch.setattr(patience, "ATTEMPTS", 20)  # a busy machine may be late as well
        line.after, line.silent, line.faults = 50_000, True, 2
        started = time.monotonic()
        assert stream.read() == content[10:]
    assert line.faults == 0
    assert time.monotonic() - started < 60


def test_slow_answers_are_waited_for(tar: Tar, line: Line, s3: Any) -> None:
    shard = tar({"a.jpg": random_bytes(300_000), "b.jpg": random_bytes(200_000)})
    s3.put_object(Bucket="pictures", Key="x.tar", Body=shard)
    line.pause = 0.1
    assert [len(sample.picture.read()) for sample in find_samples("s3://pictures/x.tar")] == [300_000, 200_000]
    with open_place("s3://pictures/x.tar") as stream:
        assert stream.read() == shard


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False])
def test_a_line_that_stays_dead_ends_with_one_error(
    tar: Tar, line: Line, s3: Any, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket="pictures", Key="x.tar", Body=tar({"a.jpg": random_bytes(500_000)}))
    (sample,) = find_samples("s3://pictures/x.tar")
    stream = open_place("s3://pictures/x.tar")
    monkeypatch.setattr(patience, "TIMEOUT", 0.3)
    line.after, line.silent = 5_000, silent
    for read in (stream.read, sample.picture.read, lambda: find_samples("s3://pictures/x.tar")):
        started = time.monotonic()
        with pytest.raises(InputError, match=r"s3://pictures/x\.tar can't be read: .* \(tried 4 times\)\.$"):
            read()
        assert time.monotonic() - started < 30
    stream.close()


def test_nobody_answers(point: Callable[[Port], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    point(port)
    with pytest.raises(InputError, match=r"s3://pictures/x\.tar can't be read: .*tried 4 times"):
        find_samples("s3://pictures/x.tar")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "s3://pictures/t/train-0002.tar",
            r"looked for s3://pictures/t/train-0002\.tar\. Did you mean 'train-002\.tar'",
        ),
        ("s3://pictures/t/train-{000..004}.tar", r"looked for s3://pictures/t/train-003\.tar\. Did you mean 'train-00"),
        ("s3://pictures/tt/train-002.tar", "Did you mean 't'"),
        ("s3://picture/t/train-002.tar", "No data at .*Did you mean 'pictures'"),
        ("s3://pictures/t/test-*.tar", r"No data at 's3://pictures/t/test-\*\.tar'"),
        ("s3://nothing-like-it/*.tar", "No data at"),
        ("s3://", "s3:// can't be read"),
        ("s3://pictures/notes", "No picture in 's3://pictures/notes'"),
        ("s3://pictures/cut.tar", r"^s3://pictures/cut\.tar is cut short: 24 bytes of 'a\.png' are missing\.$"),
    ],
)
def test_what_is_not_there_names_what_is(tar: Tar, s3: Any, place: str, said: str) -> None:
    for index in range(3):
        s3.put_object(Bucket="pictures", Key=f"t/train-{index:03}.tar", Body=tar({}))
    s3.put_object(Bucket="pictures", Key="notes/readme.md", Body=b"")
    s3.put_object(Bucket="pictures", Key="cut.tar", Body=tar({"a.png": bytes(100)})[: 512 + 76])
    with pytest.raises(InputError, match=said):
        find_samples(place)


def test_keys_that_may_not_read(tar: Tar, s3: Any) -> None:
    s3.put_object(Bucket="pictures", Key="x.tar", Body=tar({"a.jpg": b"A"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # the server checks keys
        with pytest.raises(InputError, match=r"No permission to read s3://pictures/x\.tar .*AWS_PROFILE"):
            find_samples("s3://pictures/x.tar")


def test_a_public_file_is_read_without_keys(
    tar: Tar, s3: Any, server: Port, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3.put_object(Bucket="pictures", Key="x.tar", Body=tar({"a.jpg": b"A"}), ACL="public-read")
    for name in KEYS:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delitem(fsspec.config.conf, "s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server}")
    assert [sample.picture.read() for sample in find_samples("s3://pictures/x.tar")] == [b"A"]
