from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.check import Report, Wanted
from littlecascade.data.findings import Finding, Kind
from littlecascade.data.look import Look, Measures
from littlecascade.data.page import Page

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


class Parts(HTMLParser):
    """The elements of a page with their attributes, and the contents of those that hold text alone."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.closed = True
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self.closed = False

    def handle_endtag(self, tag: str) -> None:
        self.closed = True

    def handle_data(self, data: str) -> None:
        if not self.closed:
            self.texts[-1] += data

    def script(self, name: str | None) -> str:
        """The content of the script element with this id."""
        [found] = [
            text
            for (tag, attributes), text in zip(self.elements, self.texts, strict=True)
            if tag == "script" and attributes.get("id") == name
        ]
        return found


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def seen(name: str, captions: str) -> Look:
    return Look(name, Measures((640, 480), b"", 0, 0, 99.0), captions, (5,), True, ())


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Three samples, the second of which has a caption that tries to be markup; a name that is no Unicode."""
    looks = [
        seen("10.jpg", "a red fox"),
        seen("9.jpg", HOSTILE),
        Look("bad\udcff.jpg", None, "", (), False, ("cut short",)),
    ]
    findings = [
        Finding(Kind.DAMAGED, "bad\udcff.jpg", "cut short"),
        Finding(Kind.SMALL, "9.jpg", "640x480"),
        Finding(Kind.LEFT_OUT, "notes.md", HOSTILE),
    ]
    with Page(tmp_path / "page.html", f"data & {HOSTILE}") as writer:
        for thumbnail in (picture("red"), picture("blue"), b""):
            writer.add(thumbnail)
        writer.finish(Report(Wanted(), looks, findings))
    return tmp_path / "page.html"


def test_data_stays_data(page: Path) -> None:
    parts = Parts(page.read_text("utf-8"))
    assert [attributes.get("id") for tag, attributes in parts.elements if tag == "script"] == [
        "thumbnails",
        "report",
        None,
    ]
    report = json.loads(parts.script("report"))
    assert report["samples"] == [
        ["10.jpg", "640x480", "a red fox", [5], []],
        ["9.jpg", "640x480", HOSTILE, [5], [["too small", "640x480"]]],
        ["bad?.jpg", None, "", [], [["damaged", "cut short"]]],
    ]
    assert report["members"] == [["left out", "notes.md", HOSTILE]]
    lines = parts.script("thumbnails").split("\n")[1:]
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(line)))) for line in lines[:2]]
    assert [int(image[4, 4].argmax()) for image in images] == [0, 2]
    assert lines[2:] == ["", ""]  # of the third, and what follows the last line


def test_nothing_comes_from_elsewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    parts = Parts(text)
    assert not [tag for tag, attributes in parts.elements if {"src", "href", "onload", "onerror"} & attributes.keys()]
    assert not re.search(r"https?:|url\(|@import", text)
    policy = next(a["content"] for tag, a in parts.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(parts.script(None).encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    def crash() -> None:
        with Page(tmp_path / "page.html", "data") as writer:
            writer.add(picture("red"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_a_browser_shows_searches_and_filters(page: Path, tmp_path: Path) -> None:
    """Once as it stands, and once with a script of the test's in it, which the page's policy would not run."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")

    def dom(path: Path) -> str:
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom")
        command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
        return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()

    def names(text: str) -> list[str]:
        return re.findall(r"<figcaption><div>([^<]*)</div>", text)

    as_it_stands = dom(page)
    assert [name[:3] for name in names(as_it_stands)] == ["9.j", "10.", "bad"]
    assert "taken" not in re.findall("<title>(.*?)</title>", as_it_stands)[0].replace("= 'taken'", "")
    assert as_it_stands.count("<img ") == 2

    def driven(script: str) -> list[str]:
        text = re.sub("<meta http-equiv[^>]*>", "", page.read_text("utf-8"))
        path = tmp_path / "driven.html"
        path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
        return names(dom(path))

    def put(name: str, value: str, event: str) -> str:
        return f"byId('{name}').value = '{value}'; byId('{name}').dispatchEvent(new Event('{event}'));"

    assert driven(put("search", "FOX red", "input")) == ["10.jpg"]
    assert driven(put("kind", "too small", "change")) == ["9.jpg"]
    assert driven(put("kind", "problems", "change") + put("search", "9", "input")) == ["9.jpg"]
