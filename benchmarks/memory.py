"""How much memory drawing takes: the peak of a whole process, with full-size networks of made-up weights.

python benchmarks/memory.py [--sizes tiny,lite,full] [--ways bfloat16/stage,int8/stage] [--picture 1024x1024]
python benchmarks/memory.py --choices

Weights of the true shapes are written under the official names to a folder (lite 5 GB, full 12 GB) that is kept for
the next time. Each way of drawing (precision/offload) runs in a process of its own, from reading the files to the
finished picture: the text tower, Stage C with guidance, Stage B, Stage A. Its peak is the resident set's, in which
pages of mapped files count, too. The peak does not depend on the number of steps, so there are few.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from littlecascade.checkpoint import files, places
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.checkpoint.networks import ROLES
from littlecascade.conditioning.clip import TextTower, VisionTower
from littlecascade.conditioning.folder import CONFIG, WEIGHTS, write_json
from littlecascade.memory.placement import Machine, choose
from littlecascade.presets import PRESETS, Preset

GIB = 2**30
SIZES = ("lite", "full")
CARDS = (
    ("4 GB", 4, True),
    ("6 GB", 6, True),
    ("8 GB", 8, True),
    ("8 GB, no bfloat16 (RTX 2070)", 8, False),
    ("11 GB, no bfloat16 (RTX 2080 Ti)", 11, False),
    ("12 GB", 12, True),
    ("16 GB", 16, True),
    ("24 GB", 24, True),
)
TAKEN = 0.8  # GiB of a card that CUDA and the desktop take
CHILD = """
import json, sys
from littlecascade import Cascade
model, precision, offload, width, height = sys.argv[1:]
cascade = Cascade.load(model, device="cpu", precision=precision, offload=offload)
drawn = cascade.generate("a red apple", seed=0, size=(int(width), int(height)), steps=2, decoder_steps=1)
need = cascade.components.placement.need
print(json.dumps({"peak": drawn.peak_memory, "need": need, "timings": drawn.timings, "size": drawn.images[0].size}))
"""


def made_up(preset: Preset, folder: Path) -> Path:
    """The folder of a size's weights, written unless it is there."""
    if folder.is_dir():
        return folder
    new = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(new, ignore_errors=True)
    for role, entry in ROLES.items():
        with torch.device("meta"):
            network = entry.network(getattr(preset, role))
        dtype = torch.bfloat16 if role in ("stage_b", "stage_c") else torch.float32
        write(network, new / places.published(role, preset.name, "bfloat16"), dtype)
    for role, tower, config in (("text", TextTower, preset.text), ("image", VisionTower, preset.image)):
        with torch.device("meta"):
            network = tower(config)
        write(network, new / role / WEIGHTS, torch.bfloat16)
        write_json(new / role / CONFIG, config.to_transformers())
    tokenizer = places.packaged("tiny") / "text"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, new / "text" / name)
    new.rename(folder)
    return folder


def write(network: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Weights of a network on the meta device, from which its outputs stay finite, tensor by tensor."""
    noise = torch.randn((1 << 20) - 3, generator=torch.Generator().manual_seed(0)).to(dtype)

    def make(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if tensor.ndim == 1:  # norms' weights and variances, or else biases and means
            return torch.full(tensor.shape, float(name.endswith(("weight", "var"))), dtype=dtype)
        values = noise.repeat(-(-tensor.numel() // len(noise)))[: tensor.numel()].view(tensor.shape)
        return values * (0.1 * tensor[0].numel() ** -0.5)

    own = network.state_dict()
    outline = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    files.save(path, LazyTensors({name: partial(make, name, tensor) for name, tensor in own.items()}), outline=outline)


def measure(model: str, way: str, picture: tuple[int, int]) -> dict[str, object]:
    """What a process that draws one picture says of itself."""
    command = [sys.executable, "-c", CHILD, model, *way.split("/"), *map(str, picture)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def row(size: str, way: str, picture: tuple[int, int], found: Mapping[str, object]) -> str:
    """A line of the table."""
    spent = found["timings"]
    assert isinstance(spent, dict)
    seconds = " ".join(f"{part} {value:.0f}" for part, value in spent.items())
    peak, need = (float(str(found[name])) / GIB for name in ("peak", "need"))
    return f"| {size} | {way} | {picture[0]} x {picture[1]} | {peak:.2f} | {need:.2f} | {seconds} |"


def choices() -> str:
    """What is chosen by itself for GPUs of several sizes, with bfloat16 and without."""
    lines = ["| GPU | " + " | ".join(SIZES) + " |", "| --- " * (1 + len(SIZES)) + "|"]
    for card, total, bfloat16 in CARDS:
        cells: list[str] = []
        for size in SIZES:
            machine = Machine(torch.device("cuda"), (total - TAKEN) * GIB, bfloat16)
            found = choose(machine, parameters(PRESETS[size]), PRESETS[size].drawing.image_size)
            cells.append(f"{found.precision}, {found.offload}, {found.need / GIB:.1f} GiB")
        lines.append(f"| {card} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parameters(preset: Preset) -> dict[str, int]:
    """Of each network."""
    factories = {role: entry.network for role, entry in ROLES.items()} | {"text": TextTower, "image": VisionTower}
    with torch.device("meta"):
        networks = {role: factory(getattr(preset, role)) for role, factory in factories.items()}
    return {role: sum(own.numel() for own in network.parameters()) for role, network in networks.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="lite,full", help="comma-separated (default lite,full)")
    parser.add_argument("--ways", default="bfloat16/stage,int8/stage,bfloat16/block", help="precision/offload")
    parser.add_argument("--picture", default=None, help="WIDTHxHEIGHT (default: the size's own square)")
    parser.add_argument("--out", type=Path, default=Path("runs/made-up"), help="folder for the weights")
    parser.add_argument("--choices", action="store_true", help="tell what GPUs would be drawn with; measure nothing")
    options = parser.parse_args()
    if options.choices:
        print(choices())
        return
    print("| size | way | picture | peak, GiB | expected, GiB | seconds |\n| --- | --- | --- | --- | --- | --- |")
    for size in options.sizes.split(","):
        preset = PRESETS[size]
        model = size if size == "tiny" else str(made_up(preset, options.out / size))
        side = preset.drawing.image_size
        width, height = map(int, options.picture.split("x")) if options.picture else (side, side)
        for way in options.ways.split(","):
            print(row(size, way, (width, height), measure(model, way, (width, height))), flush=True)


if __name__ == "__main__":
    main()
