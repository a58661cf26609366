"""Checks of the machine and the installation. They need no torch, so that they work where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from littlecascade.checks import Line
from littlecascade.doctor.builds import DRIVERS, best_build, builds, driver_of, install, least_driver, pip
from littlecascade.doctor.host import Host
from littlecascade.doctor.nvidia import Card

Check = Callable[[Host], Iterable[Line]]

_LITTLE = 4 * 2**30  # bytes of memory below which a remark is due


def python(host: Host) -> Iterator[Line]:
    """Whether this version of Python is supported."""
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, host.python))
    text = f"{version} on {host.system} {host.machine}, {host.executable}"
    if host.requires_python and version not in SpecifierSet(host.requires_python):
        yield Line("fix", "python", f"{text}: supported is {host.requires_python}.", "Install with such a Python.")
    else:
        yield Line("ok", "python", text)


def libraries(host: Host) -> Iterator[Line]:
    """Whether what is required is there, in versions that are supported."""
    from packaging.requirements import Requirement

    if not host.requires:
        text = "littlecascade is not installed, but runs from its sources: versions are not checked"
        yield Line("note", "libraries", text, "'pip install .' in its folder installs it.")
        return
    fine: list[str] = []
    for line in host.requires:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        version = host.packages.get(needed.name)
        command = f'{pip(host)} "{needed.name}{needed.specifier}"'
        if version is None:
            yield Line("fix", "libraries", f"{needed.name} is not installed.", command)
        elif not needed.specifier.contains(version, prereleases=True):
            yield Line("fix", "libraries", f"{needed.name} {version} is not one of {needed.specifier}.", command)
        else:
            fine.append(f"{needed.name} {version}")
    if fine:
        yield Line("ok", "libraries", ", ".join(fine))


def extras(host: Host) -> Iterator[Line]:
    """Which optional parts are there."""
    from packaging.requirements import Requirement

    needs = [line for line in map(Requirement, host.requires) if line.marker is not None]
    for extra in host.extras:
        packages = [line.name for line in needs if line.marker and line.marker.evaluate({"extra": extra})]
        missing = [name for name in packages if name not in host.packages]
        if missing:
            remedy = f'{pip(host)} "littlecascade[{extra}]", if you need it'
            yield Line("note", "extras", f"{extra} is not there: it lacks {', '.join(missing)}", remedy)
        else:
            yield Line("ok", "extras", f"{extra}: {', '.join(packages)}")


def cards(host: Host) -> Iterator[Line]:
    """Which GPUs there are, and how much of their memory is free."""
    for card in host.cards:
        facts = [f"driver {card.driver}"] if card.driver else []
        if card.capability:
            facts.append(f"compute capability {'.'.join(map(str, card.capability))}")
        if card.total:
            facts.append(f"{_gib(card.free)} of {_gib(card.total)} free")
        text = ", ".join([card.name, *facts])
        if not card.driver:
            yield Line("fix", "gpu", f"{text}: no driver answers.", "Install NVIDIA's driver, and start anew.")
        elif host.smi:
            yield Line("note", "gpu", f"{text} ({host.smi})", "Where nvidia-smi fails, so may CUDA: see to it first.")
        elif card.free and card.total and card.free < card.total / 2:
            yield Line("note", "gpu", text, "Close what else uses it: browsers and games do.")
        else:
            yield Line("ok", "gpu", text)
    if host.torch is not None and host.torch.mps:
        yield Line("note", "gpu", "Apple's, through MPS, which is not used here: everything runs on the CPU")
    elif not host.cards and not (host.torch and host.torch.hip):
        yield Line("note", "gpu", "no NVIDIA card found: everything runs on the CPU")


def torch(host: Host) -> Iterator[Line]:
    """Whether this build of torch can use the card that there is; if not, the command that mends it."""
    built = host.torch
    if built is None:
        yield Line("fix", "torch", "is not installed.", f"{pip(host)} torch")
    elif built.fault:
        remedy = f"{pip(host)} --force-reinstall torch=={built.version}"
        if host.system == "Windows":
            remedy = f"Install Microsoft's Visual C++ Redistributable (x64); if that is there, {remedy}"
        yield Line("fix", "torch", f"{built.version} can't be imported ({built.fault}).", remedy)
    elif built.hip:
        text = f"{built.version} is built for AMD's ROCm {built.hip}, which nobody has tried here"
        yield Line("note", "torch", text, "What works with CUDA may work; --device cpu always does.")
    elif built.cuda is None:
        yield from _without_cuda(host)
    elif not host.cards:
        yield Line("ok", "torch", f"{built.version}, built for CUDA {built.cuda}, without a card to use")
    else:
        yield from _with_cuda(host)


def _without_cuda(host: Host) -> Iterator[Line]:
    built = host.torch
    assert built is not None
    if not host.cards:
        yield Line("ok", "torch", f"{built.version}, without CUDA")
        return
    card = host.cards[0]
    text = f"{built.version} is built without CUDA, so that the {card.name} is not used."
    yield Line("fix", "torch", text, _mend(host, card))


def _mend(host: Host, card: Card) -> str:
    """How to come to a torch that uses a card."""
    built = host.torch
    assert built is not None
    build = best_build(host, built, card)
    if build is not None:
        return install(host, built, build)
    driver = least_driver(host, built, card)
    if driver is not None:
        return f"Install NVIDIA's driver {driver} or newer (this is {card.driver}), and run the doctor again."
    return f"No build of torch {built.release} for this card is known here: see pytorch.org/get-started."


def _with_cuda(host: Host) -> Iterator[Line]:
    built = host.torch
    assert built is not None
    assert built.cuda is not None
    card = host.cards[0]
    least = DRIVERS.get(int(built.cuda.partition(".")[0]), 0)
    text = f"{built.version}, built for CUDA {built.cuda}"
    best = best_build(host, built, card)
    name = f"cu{built.cuda.replace('.', '')}"
    unfit = any(build.name == name and not build.has(card) for build in builds(host, built))
    if driver_of(card) < least:
        yield Line("fix", "torch", f"{text}, needs driver {least} or newer; this is {card.driver}.", _mend(host, card))
    elif unfit and best is not None:
        yield Line("fix", "torch", f"{text}, has no code for the {card.name}.", install(host, built, best))
    elif built.devices == 0:
        remedy = "Unset CUDA_VISIBLE_DEVICES if it is set; else install NVIDIA's driver anew, and start anew."
        yield Line("fix", "torch", f"{text}, sees no device, though there is a {card.name}.", remedy)
    else:
        yield Line("ok", "torch", f"{text}, sees {built.devices} device{'s' * (built.devices != 1)}")


def precision(host: Host) -> Iterator[Line]:
    """Which 16-bit formats the device computes in by itself."""
    for card in host.cards:
        if card.capability is not None:
            yield Line("ok", "precision", f"{card.name}: {formats(card.capability)}")
    if host.bfloat16 is not None:
        quick = "bfloat16 is quicker than float32" if host.bfloat16 else "float32; bfloat16 would be no quicker"
        yield Line("ok", "precision", f"CPU: {quick}")


def formats(capability: tuple[int, int]) -> str:
    """What a GPU can compute in, by its compute capability.

    >>> formats((7, 5))
    'float16 native, bfloat16 emulated and slow'
    """
    if capability >= (8, 0):
        return "bfloat16 and float16 native"
    if capability >= (7, 0):
        return "float16 native, bfloat16 emulated and slow"
    if capability == (6, 1) or capability < (5, 3):
        return "float16 saves memory but no time, no bfloat16"
    return "float16 native but without tensor cores, no bfloat16"


def memory(host: Host) -> Iterator[Line]:
    """How much memory is free."""
    text = f"{_gib(host.free_memory)} of {_gib(host.memory)} free"
    if host.free_memory < _LITTLE:
        yield Line("note", "memory", text, "Enough for `tiny`; for larger models close other programs.")
    else:
        yield Line("ok", "memory", text)


def _gib(count: int | None) -> str:
    return "an unknown part" if count is None else f"{count / 2**30:.1f} GiB"


CHECKS: tuple[Check, ...] = (python, libraries, extras, cards, torch, precision, memory)
