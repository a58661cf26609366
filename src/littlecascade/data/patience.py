"""Reading from places that may be slow, cut off or gone: a time limit on every request, and a few more attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from littlecascade.errors import InputError

TIMEOUT = 30.0
"""Seconds that one request may take, from connecting to its last byte."""
ATTEMPTS = 4
"""How often a request is tried before it counts as failed."""
FIRST_WAIT = 0.25
"""Seconds before the second attempt; each further one waits four times as long."""
_PASSING = frozenset({408, 425, 429})  # the statuses of the client's kind that go away by themselves
_ADVICE = {
    "s3": " Name keys that may read it: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    "hf": " Log in with `hf auth login`, and accept the repository's terms on its page.",
}

T = TypeVar("T")


class MissingError(InputError):
    """There is nothing at a place."""


class NoRangesError(Exception):
    """A server sends whole files only."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises. Raises `TimeoutError` if it takes longer; it is left to itself then."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([future], timeout=seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def patiently(url: str, call: Callable[[], T], seconds: float | None = None) -> T:
    """What `call` returns within `seconds` (None: `TIMEOUT`), tried again where that may help.

    Raises `MissingError` if there is nothing at `url`, another `InputError` for all else that fails, and lets
    `NoRangesError` through.
    """
    patience = Patience(url)
    while True:
        try:
            return within(TIMEOUT if seconds is None else seconds, call)
        except Exception as error:
            patience.failed(error)


class Patience:
    """How many attempts in a row have failed to read `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures = 0

    def worked(self) -> None:
        """Start counting again: there was progress."""
        self.failures = 0

    def failed(self, error: Exception) -> None:
        """Wait before the next attempt, or raise what ends the reading: see `patiently`."""
        if isinstance(error, NoRangesError | InputError):
            raise error
        # Over HTTP, fsspec says that a file is not there whatever went wrong.
        if self.url.startswith(("http://", "https://")) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        status = _status(error)
        if status in {404, 410} or isinstance(error, FileNotFoundError):
            raise MissingError(f"There is nothing at {self.url}.") from None
        if status in {401, 403} or isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            advice = _ADVICE.get(self.url.partition("://")[0], "")
            raise InputError(f"No permission to read {self.url} ({_reason(error)}).{advice}") from None
        self.failures += 1
        hopeless = isinstance(error, ValueError) or (
            status is not None and status // 100 == 4 and status not in _PASSING
        )
        if hopeless or self.failures >= ATTEMPTS:
            times = "once" if self.failures == 1 else f"{self.failures} times"
            raise InputError(f"{self.url} can't be read: {_reason(error)} (tried {times}).") from None
        time.sleep(FIRST_WAIT * 4 ** (self.failures - 1))


def _status(error: BaseException) -> int | None:
    """The HTTP status that the libraries below put into their errors, each in its own way."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # httpx and requests, or aiohttp
        status = getattr(response, "status_code", None) or getattr(error, "status", None)
    if status is None and isinstance(error.__cause__, Exception):
        return _status(error.__cause__)
    return status if isinstance(status, int) else None


def _reason(error: Exception) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
