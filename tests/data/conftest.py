from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping

import pytest


def _tar(members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tar() -> Callable[..., bytes]:
    """The bytes of a tar with such members, in one of the formats of `tarfile`."""
    return _tar
