"""A report as one HTML page with a thumbnail of every picture, to be looked through in a browser.

The thumbnails lie in the page and not in a folder beside it, so that one file can be moved and sent: ten thousand of
them make about 50 MB, which a browser opens in a second. They are written as they come, so that none waits in memory,
and shown as the reader scrolls. The page needs no network, its policy allows no connection and no script but its own,
and what comes from the data is JSON that is shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Any, Self

from littlecascade.data.check import Report

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"


class Page:
    """Writes a page: `with Page(path, title) as page`, then `add` for every sample in order, then `finish`.

    The file appears under its name when it is whole; if the block ends without `finish`, nothing is left.
    """

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}-{os.getpid()}")
        self._script = _resource("page.js")
        digest = base64.b64encode(hashlib.sha256(self._script.encode()).digest()).decode()
        policy, named = _POLICY.format(script=digest), html.escape(title)
        self._file = self._temporary.open("w", encoding="utf-8", errors="replace", newline="\n")
        self._file.write(Template(_resource("page.html")).substitute(policy=policy, title=named))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, thumbnail: bytes) -> None:
        """The next sample's thumbnail: a JPEG file, or nothing."""
        self._file.write(base64.b64encode(thumbnail).decode() + "\n")

    def finish(self, report: Report) -> None:
        """Add what the report says, and give the file its name."""
        data = json.dumps(_contents(report), ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
        self._file.write(f'</script>\n<script type="application/json" id="report">{data}</script>\n')
        self._file.write(f"<script>{self._script}</script>\n</body>\n</html>\n")
        self._file.close()
        self._temporary.replace(self.path)


def _contents(report: Report) -> dict[str, Any]:
    """Samples as `[name, size, captions, tokens, problems]`, and what was found about other members."""
    names = {look.name for look in report.looks}
    problems: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for finding in report.findings:
        problems[finding.name].append((finding.kind, finding.detail))
    samples = [
        (
            look.name,
            look.measures and "{}x{}".format(*look.measures.size),
            look.captions,
            look.tokens,
            problems[look.name],
        )
        for look in report.looks
    ]
    members = [(finding.kind, finding.name, finding.detail) for finding in report.findings if finding.name not in names]
    return {"samples": samples, "members": members}


def _resource(name: str) -> str:
    return files("littlecascade.data").joinpath(name).read_text("utf-8")
