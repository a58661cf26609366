"""Tensors that lie in the machine's memory and are on a device while they are used; copies run beside its computing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from littlecascade.memory.parts import SMALLEST

Key = TypeVar("Key", bound=Hashable)


class Lane:
    """Copies between the machine's memory and a device, in the order in which they are asked for.

    On a GPU they run on a stream of their own, after all that the device has been told to do up to then. Memory that
    they read or write is used again in the order of the device's own stream: it waits for a copy where it must.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._leaving: tuple[Sequence[Tensor], torch.cuda.Event] | None = None

    def host_like(self, tensor: Tensor) -> Tensor:
        """Room for a tensor in the machine's memory, page-locked for a GPU, as such copies need it."""
        return torch.empty_like(tensor, device="cpu", pin_memory=self._stream is not None)

    def home(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor, wherever it is, in the machine's memory. It is there on return."""
        return self.host_like(tensor).copy_(tensor)

    def bring(self, sources: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Begin to copy onto the device. What is returned gives the copies, and has the device wait for them.

        It must be called, even if they are not needed any more: before that their memory may not be used again.
        """
        targets = [torch.empty_like(source, device=self.device) for source in sources]
        done = self._copy(sources, targets)

        def arrived() -> list[Tensor]:
            self._await(done)
            return targets

        return arrived

    def store(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Begin to copy from the device into what `host_like` gave. That may be read after `wait`, or brought again."""
        self._release()
        done = self._copy(sources, targets)
        if done is not None:
            self._leaving = sources, done

    def wait(self) -> None:
        """Return once all copies have been made."""
        self._release()
        if self._stream is not None:
            self._stream.synchronize()

    def _release(self) -> None:
        """Let go of what was stored last: not sooner, since its copy was still to be made."""
        if self._leaving is not None:
            self._await(self._leaving[1])
            self._leaving = None

    def _copy(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> torch.cuda.Event | None:
        pairs = zip(sources, targets, strict=True)
        if self._stream is None:
            for source, target in pairs:
                target.copy_(source)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            return done

    def _await(self, done: torch.cuda.Event | None) -> None:
        if done is not None:
            torch.cuda.current_stream(self.device).wait_event(done)


class Ahead(Generic[Key]):
    """Brings what lies under keys by a lane; what is expected to be taken next begins to come before that.

    read: gives the tensors of a key where they lie.
    """

    def __init__(self, lane: Lane, read: Callable[[Key], Sequence[Tensor]]) -> None:
        self._lane, self._read = lane, read
        self._coming: tuple[Key, Callable[[], list[Tensor]]] | None = None

    def take(self, key: Key) -> list[Tensor]:
        """The tensors of a key, on the device."""
        coming = self.forget()
        return coming[1] if coming is not None and coming[0] == key else self._lane.bring(self._read(key))()

    def expect(self, key: Key | None) -> None:
        """Begin to bring a key, if it is one."""
        self.forget()
        if key is not None:
            self._coming = key, self._lane.bring(self._read(key))

    def forget(self) -> tuple[Key, list[Tensor]] | None:
        """Expect nothing any more; what was coming, which may change where it lies."""
        coming, self._coming = self._coming, None
        return None if coming is None else (coming[0], coming[1]())


class Foresight(Generic[Key]):
    """Which of some keys comes next: the one that came last time after the same two.

    Two tell the way forwards through the blocks of a network from the way back.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Key | None, Key | None], Key] = {}
        self._last: tuple[Key | None, Key | None] = (None, None)

    def see(self, key: Key) -> Key | None:
        """Take in the key that has come, and give the next one as far as it is known."""
        self._known[self._last] = key
        self._last = (self._last[1], key)
        return self._known.get(self._last)


class Shelf:
    """What is kept by key and name, and needed and changed one key at a time.

    lane: without one it stays as it is given. With one it lies in the machine's memory, but for tensors so small that
    nothing would be gained, and is on the device from `take` to `put`.
    """

    def __init__(self, lane: Lane | None = None) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._lane = lane
        self._ahead: Ahead[str] | None = None if lane is None else Ahead(lane, self._away)
        self._foresight: Foresight[str] = Foresight()

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def take(self, key: str) -> dict[str, Tensor]:
        """What is kept under a key, on the device."""
        kept = self._kept[key]
        if self._ahead is None:
            return kept
        return kept | dict(zip(filter(lambda name: _is_large(kept[name]), kept), self._ahead.take(key), strict=True))

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep this under a key, in place of what was there. What came after it last time begins to come now."""
        if self._lane is None or self._ahead is None:
            self._kept[key] = dict(tensors)
            return
        self._ahead.forget()
        old = self._kept.get(key, {})
        self._kept[key] = {
            name: tensor if not _is_large(tensor) else old[name] if name in old else self._lane.host_like(tensor)
            for name, tensor in tensors.items()
        }
        self._lane.store([tensor for tensor in tensors.values() if _is_large(tensor)], self._away(key))
        self._ahead.expect(self._foresight.see(key))

    def everything(self) -> Mapping[str, Mapping[str, Tensor]]:
        """All of it, by key and name, where it lies."""
        if self._lane is not None:
            self._lane.wait()
        return self._kept

    def _away(self, key: str) -> list[Tensor]:
        return [tensor for tensor in self._kept[key].values() if _is_large(tensor)]


def _is_large(tensor: Tensor) -> bool:
    return tensor.numel() >= SMALLEST
