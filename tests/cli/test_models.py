"""`littlecascade models`, and downloads from a server beside the test that speaks as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from littlecascade.checkpoint import files, places
from littlecascade.cli.main import main
from littlecascade.pipelines.survey import NEEDS

TINY = places.packaged("tiny")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 24_000_000  # bytes of the file whose transfer is cut; what arrives is kept by the 10 MiB
SIZES = {"stage_a": 100, "previewer": LARGE, "stage_c_lite_bf16": 200}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["models", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of tiny that can be broken."""
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path / "model"


def rows(table: str) -> dict[str, list[str]]:
    """The cells of a table's rows by their first one."""
    cells = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    return {row[0]: row[1:] for row in cells}


def test_tiny_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "verify")
    assert code == 0
    assert rows(text)["stage_c"][:3] == ["present", "tiny", "float16"]
    assert all(f"{command}: ready" in text for command in NEEDS)


def test_verify_tells_what_is_missing_damaged_or_of_another_size(
    capsys: pytest.CaptureFixture[str], copy: Path
) -> None:
    (copy / "effnet_encoder.safetensors").unlink()
    (copy / "stage_a.safetensors").write_bytes((copy / "stage_a.safetensors").read_bytes()[:-9])
    (copy / "image" / "model.safetensors").write_bytes(b"")
    wide = {
        name: torch.cat([t, t], 1) if name == "clip_mapper.weight" else t
        for name, t in files.load(copy / "stage_b.safetensors").items()
    }
    files.save(copy / "stage_b.safetensors", wide)
    code, text = run(capsys, "verify", copy)
    states = {name: row[0] for name, row in rows(text).items() if len(row) > 3}
    assert code == 1
    assert {name: states[name] for name in ("compressor", "stage_a", "image", "stage_c", "text")} == {
        "compressor": "missing",
        "stage_a": "damaged",
        "image": "damaged",
        "stage_c": "present",
        "text": "wrong size",
    }
    assert "its projection is 384, and stage_b takes 768" in text
    assert "cut short" in text
    assert "edit: lacks text, stage_a, compressor" in text


def test_verify_finds_a_file_that_lacks_tensors(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    path = copy / "stage_c.safetensors"
    tensors = dict(files.load(path))
    del tensors["clf.1.bias"]
    files.save(path, tensors, files.metadata(path))
    code, text = run(capsys, "verify", copy)
    assert code == 1
    assert "1 of 110 tensors are missing, clf.1.bias for one" in text


def test_list_says_what_is_where(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LITTLECASCADE_HOME", str(tmp_path))
    shutil.copytree(TINY, tmp_path / "models" / "emoji")
    code, text = run(capsys, "list")
    table = rows(text)
    assert code == 0
    assert table["tiny"][0] == table["emoji"][0] == "7"
    assert table["tiny"][2] == table["emoji"][2]
    assert str(tmp_path / "models" / "emoji") in table["emoji"][3]
    assert "'littlecascade models download full'" in table["full"][3]


def test_show_says_what_a_file_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "show", TINY / "stage_c.safetensors", TINY / "text" / "model.safetensors")
    assert code == 0
    assert "part         : stage_c" in text
    assert "parameters   : 13,429,264 in 110 tensors" in text
    assert "MODEL_CARD.md" in text
    assert "part         : text" in text


def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files.save(tmp_path / "x.safetensors", {"other": torch.zeros(1)})
    assert run(capsys, "show", tmp_path / "x.safetensors") == (
        2,
        f"littlecascade: {tmp_path / 'x.safetensors'} is no part of a cascade that is known here: its tensors have "
        "other names.\n",
    )
    assert run(capsys, "verify", "fulll")[1].endswith("Did you mean 'full'?\n")
    assert "tiny is part of the package" in run(capsys, "download", "tiny")[1]
    assert "ACTION" in run(capsys)[1]


def test_a_model_is_converted_and_drawn_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, text = run(capsys, "convert", "tiny", tmp_path / "comfy", "--to", "comfy", "--dtype", "float32")
    assert code == 0
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        str(tmp_path / "comfy" / f"stable_cascade_stage_{letter}.safetensors") for letter in ("c", "b")
    ]
    code, text = run(capsys, "verify", tmp_path / "comfy")
    assert code == 0
    assert rows(text)["stage_a"][:3] == ["present", "tiny", "float32"]


@dataclass
class Hub:
    """What a server answers for the hub. contents: by repository and name; all are as if under Git LFS.

    lying: the hash that is stated is another one. failing: the next transfer of a large file ends half way, and
    nothing is answered after it. ranges: those that were asked for.
    """

    contents: dict[str, bytes]
    lying: bool = False
    failing: bool = False
    down: bool = False
    ranges: list[str] = field(default_factory=list)

    def hash(self, data: bytes) -> str:
        return hashlib.sha256(data + b"!" * self.lying).hexdigest()

    def listing(self, repository: str) -> dict[str, Any]:
        """What it has of a repository. Text is not under Git LFS, and has no hash there."""
        own = {name.removeprefix(f"{repository}/"): data for name, data in self.contents.items() if repository in name}
        siblings = [{"rfilename": name, "size": len(data)} for name, data in own.items()]
        for file in siblings:
            if Path(str(file["rfilename"])).suffix not in (".json", ".txt"):
                file["lfs"] = {"sha256": self.hash(own[str(file["rfilename"])]), "size": file["size"], "pointerSize": 1}
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        listing = re.fullmatch(r"/api/models/([^/]+/[^/?]+)(/revision/main)?(\?.*)?", self.path)
        file = re.fullmatch(r"/([^/]+/[^/]+/)resolve/[^/]+/(.+)", self.path)
        data = self.hub.contents.get(file[1] + file[2]) if file else None
        if self.hub.down:
            self.reply(503, {}, b"")
        elif listing:
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(self.hub.listing(listing[1])).encode())
        elif data is None:
            self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"")
        else:
            tag = f'"{self.hub.hash(data)}"'
            headers = {"ETag": tag, "X-Linked-Etag": tag, "X-Linked-Size": str(len(data)), "X-Repo-Commit": COMMIT}
            wanted = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            if wanted:
                self.hub.ranges.append(wanted[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.reply(206 if wanted else 200, headers, data[start:])

    def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.failing and len(data) == LARGE:
            self.hub.down = True
            data = data[: LARGE // 2]
            self.close_connection = True
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server, and the environment in which commands ask it."""
    hub = Hub({f"stabilityai/stable-cascade/{name}.safetensors": os.urandom(size) for name, size in SIZES.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": hub}))
    Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield hub
    server.shutdown()
    server.server_close()


def download(*words: str) -> tuple[int, str]:
    """In a process of its own: huggingface_hub reads its environment once."""
    command = [sys.executable, "-m", "littlecascade", "models", "download", "lite", *words]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_download_asks_for_the_licence_and_goes_on_where_it_was_cut(hub: Hub, tmp_path: Path) -> None:
    parts = ("--only", "stage_a", "previewer", "stage_c")
    cache = tmp_path / "hub" / "models--stabilityai--stable-cascade"
    code, text = download(*parts)
    assert code == 2
    assert "Non-Commercial" in text
    assert "https://huggingface.co/stabilityai/stable-cascade/blob/main/LICENSE" in text
    assert not cache.exists()

    hub.failing = True
    code, text = download("--accept-licence", *parts)
    assert code == 2
    assert "the same command goes on" in text
    hub.failing = hub.down = False
    hub.ranges.clear()
    code, text = download("--accept-licence", *parts)
    assert code == 0, text
    assert hub.ranges == [f"bytes={10 << 20}-"]
    for name, data in hub.contents.items():
        assert (cache / "snapshots" / COMMIT / Path(name).name).read_bytes() == data
    assert not list(cache.rglob("*.part"))


@pytest.mark.slow
def test_a_file_with_another_hash_is_removed(hub: Hub, tmp_path: Path) -> None:
    hub.lying = True
    code, text = download("--accept-licence", "--only", "stage_a")
    assert code == 2
    assert "stage_a.safetensors of stabilityai/stable-cascade arrived damaged, with another hash" in text
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size == 100]


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_a_tower_comes_with_its_tokenizer_and_in_the_shards_that_there_are(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Without links, as on Windows, nothing lies in the cache twice."""
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", str(int(not links)))
    shards = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    wanted = ["config.json", "merges.txt", "vocab.json", "pytorch_model.bin.index.json", *shards]
    for name in (*wanted, "README.md", "tf_model.h5", "open_clip_pytorch_model.bin"):
        hub.contents[f"laion/CLIP-ViT-bigG-14-laion2B-39B-b160k/{name}"] = os.urandom(1000)
    code, text = download("--only", "text")  # under a licence that does not ask
    assert code == 0, text
    folder = tmp_path / "hub" / "models--laion--CLIP-ViT-bigG-14-laion2B-39B-b160k"
    assert {path.name for path in (folder / "snapshots" / COMMIT).iterdir()} == set(wanted)
    blobs = [path for path in (folder / "blobs").iterdir() if path.is_file()]
    assert len(blobs) == (len(wanted) if links else 0)


@pytest.mark.slow
def test_a_part_that_is_not_published_is_told(hub: Hub) -> None:
    assert "lite has no part 'stage_d'" in download("--only", "stage_d")[1]
    assert (
        "stabilityai/stable-cascade has no stage_b_lite_bf16.safetensors any more" in download("--only", "stage_b")[1]
    )
