"""How much memory drawing takes: the peak of a whole process, with full-size networks of made-up weights.

python benchmarks/memory.py [--sizes tiny,lite,full] [--ways bfloat16/stage,int8/stage] [--picture 1024x1024]

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
from littlecascade.presets import PRESETS, Preset

GIB = 2**30
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


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="lite,full", help="comma-separated (default lite,full)")
    parser.add_argument("--ways", default="bfloat16/stage,int8/stage,bfloat16/block", help="precision/offload")
    parser.add_argument("--picture", default=None, help="WIDTHxHEIGHT (default: the size's own square)")
    parser.add_argument("--out", type=Path, default=Path("runs/made-up"), help="folder for the weights")
    options = parser.parse_args()
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
