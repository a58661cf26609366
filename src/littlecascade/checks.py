"""What a check says: of an installation, a machine, or what a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Line:
    """What a check has found. subject: what it is of, a word or two. remedy: what to do, always there for `fix`."""

    level: Literal["ok", "note", "fix"]
    subject: str
    text: str
    remedy: str = ""
