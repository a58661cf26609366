"""Documents whose commands are run.

A line `<!-- test -->` before a fenced block marks its commands, which begin with `$ `, and what follows them as what
they print. A line `<!-- file: NAME -->` before a block says that it is to be saved under that name. `...` in what is
printed stands for anything on that line; sizes are not compared, since encoders differ.

`python tests/documents.py DOCUMENT FOLDER` runs a document's commands in a folder, and writes what they print into it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MARKED = re.compile(r"^<!-- test -->\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ littlecascade (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
SIZE = re.compile(r"[\d,.]+ (kB|MB|GB|bytes)\b")
ENVIRONMENT = {"COLUMNS": "100", "PYTHONUTF8": "1"}


class Command(NamedTuple):
    """A command without the name of the program, and what the document says that it prints."""

    line: str
    printed: str

    @property
    def words(self) -> list[str]:
        """The command's arguments."""
        return shlex.split(self.line)


def commands(text: str) -> Iterator[Command]:
    """Those of the marked blocks of a document, in order."""
    for block in MARKED.findall(text):
        yield from (Command(*match) for match in COMMAND.findall(block))


def write_files(text: str, folder: Path) -> None:
    """Save the files that a document shows."""
    for name, content in FILE.findall(text):
        (folder / name).write_text(content, "utf-8")


def agrees(shown: str, printed: str) -> bool:
    """Whether a document shows what a command printed.

    >>> agrees("a: .../b, 3.2 MB", "a: /home/b, 3.3 MB"), agrees("a ...", "a\\nb")
    (True, False)
    """
    shown, printed = (SIZE.sub(r"some \1", text.replace("\\", "/")).strip() for text in (shown, printed))
    return re.fullmatch(re.escape(shown).replace(re.escape("..."), ".*"), printed) is not None


def call(command: Command, folder: Path) -> tuple[int, str]:
    """The exit status and all that is printed by the installed program, in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "littlecascade", *command.words],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, done.stdout


def refill(document: Path, folder: Path) -> None:
    """Run a document's commands, and write what they print into it."""
    from littlecascade.checkpoint.places import packaged

    text = document.read_text("utf-8")
    write_files(text, folder)

    def run(match: re.Match[str]) -> str:
        command = Command(match[1], match[2])
        code, printed = call(command, folder)
        if code:
            raise SystemExit(f"{command.line} ended with {code}:\n{printed}")
        if agrees(command.printed, printed):
            return match[0]
        for place, short in ((packaged("tiny").parent, ".../weights"), (folder.resolve(), "...")):
            printed = printed.replace(str(place), short)
        return f"$ littlecascade {command.line}\n{printed}"

    def block(match: re.Match[str]) -> str:
        return match[0].replace(match[1], COMMAND.sub(run, match[1]))

    document.write_text(MARKED.sub(block, text), "utf-8")


if __name__ == "__main__":
    refill(Path(sys.argv[1]), Path(sys.argv[2]))
