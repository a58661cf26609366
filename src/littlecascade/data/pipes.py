"""The output of a program as a source of data. Nothing of it passes through a shell."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from littlecascade.data.patience import within
from littlecascade.errors import InputError

TIMEOUT = 300.0
"""Seconds that a program may be silent."""
_SHELL_MARKS = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>"})


@dataclass(frozen=True)
class Pipe:
    """A program with its arguments, whose output is read."""

    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"pipe:{shlex.join(self.command)}"

    def open(self) -> io.BufferedReader:
        """Start the program and read what it writes. Raises `InputError` if it can't be started.

        Reading raises `InputError` if the program fails or is silent for `TIMEOUT`. Closing ends it.
        """
        return io.BufferedReader(_Output(self), 1 << 16)


def parse_pipe(place: str) -> Pipe:
    """The program that `pipe:...` names. Raises `InputError` for what only a shell could run."""
    lexer = shlex.shlex(place.removeprefix("pipe:"), posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if os.name == "nt":
        lexer.escape = ""  # there a backslash is part of a path
    try:
        command = tuple(lexer)
    except ValueError as error:
        raise InputError(f"{place!r} can't be taken apart into a program and its arguments: {error}.") from None
    if not command:
        raise InputError(f"{place!r} names no program.")
    marks = _SHELL_MARKS.intersection(command)
    if marks:
        raise InputError(
            f"{place!r} is run without a shell, which alone knows what {min(marks)!r} means: "
            "name one program, such as a script that does the rest."
        )
    return Pipe(command)


class _Output(io.RawIOBase):
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        with ExitStack() as stack:
            self._said = stack.enter_context(tempfile.TemporaryFile())
            try:
                self._process = subprocess.Popen(
                    pipe.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said, bufsize=0
                )
            except OSError as error:
                raise InputError(f"{pipe} can't be started: {error.strerror or error}.") from None
            self._stack = stack.pop_all()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        output, count = self._process.stdout, len(buffer)
        assert output is not None
        try:
            data = within(TIMEOUT, lambda: output.read(count))
        except TimeoutError:
            raise InputError(f"{self._pipe} has written nothing for {TIMEOUT:g} seconds.") from None
        buffer[: len(data)] = data
        if not data and (status := self._process.wait(TIMEOUT)):
            raise InputError(f"{self._pipe} failed with status {status}: {self._last_words()}.")
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._stack.close()
        super().close()

    def _last_words(self) -> str:
        """The last line that the program wrote to its standard error."""
        self._said.seek(0)
        lines = self._said.read()[-2000:].decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it did not say why").rstrip(".")
