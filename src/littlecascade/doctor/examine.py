"""All checks in order. Adding one is a function that yields `Line`s, and its entry in a table `CHECKS`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from littlecascade.checks import Line
from littlecascade.doctor import machine
from littlecascade.doctor.host import Host
from littlecascade.errors import InputError


def examine_host(host: Host) -> Iterator[Line]:
    """What the checks say of a machine, its installation, and the weights of this one."""
    for check in machine.CHECKS:
        yield from check(host)
    if host.torch is None or host.torch.fault:
        return
    from littlecascade.doctor import stock

    for check in stock.CHECKS:
        yield from check()


def examine_run(path: Path, kind: str | None = None, overrides: Sequence[str] = ()) -> Iterator[Line]:
    """What the checks say of a run configuration. kind: of training; None: the one that the file can be of."""
    from littlecascade.doctor import run

    try:
        opened = run.open_run(path, kind, overrides)
    except InputError as error:
        yield Line("fix", "config", str(error), "Change the configuration.")
        return
    for check in run.CHECKS:
        yield from check(opened)
