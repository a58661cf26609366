"""How long drawing takes: from the command to the file, and each further picture of one process.

python benchmarks/drawing.py [--model tiny] [--runs 5] [--out FILE]

Every case runs once to warm the disk cache and then `--runs` times; the median counts. Beside whole commands stand,
measured in the same run, what no program of this kind can do without (an interpreter that imports torch) and, where
diffusers is installed, one that imports its Stable Cascade pipelines and does nothing more; beside further pictures the
same networks, called as often as a picture calls them, with nothing around.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from littlecascade import Cascade

PROMPT = "a red apple"
IMPORTS = {
    "import torch": "import torch",
    "import diffusers' pipelines": ("from diffusers import StableCascadeDecoderPipeline, StableCascadePriorPipeline"),
}


def seconds(action: Callable[[], object], runs: int) -> float:
    """The median time of `runs` calls, after one that does not count."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def fresh(*arguments: str) -> Callable[[], object]:
    """Runs a new interpreter with these arguments; what it prints is dropped."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def cold(model: str, runs: int) -> dict[str, float]:
    """Seconds of whole processes."""
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "picture.png")
        command = ("-m", "littlecascade", "generate", PROMPT, "--seed", "0", "--model", model)
        found = {
            "littlecascade --help": seconds(fresh("-m", "littlecascade", "--help"), runs),
            "littlecascade generate": seconds(fresh(*command, "-o", picture, "--overwrite"), runs),
        }
    for name, code in IMPORTS.items():
        if importlib.util.find_spec(code.split()[1]) is not None:
            found[name] = seconds(fresh("-c", code), runs)
    return found


def warm(model: str, runs: int) -> dict[str, float]:
    """Seconds per picture in this process, once the weights are read."""
    cascade = Cascade.load(model)
    batch = 8
    return {
        "a further picture": seconds(lambda: cascade.generate(PROMPT, seed=0), runs),
        f"a further picture, {batch} at a time": seconds(lambda: cascade.generate([PROMPT] * batch, seed=0), runs)
        / batch,
        "its networks alone": seconds(lambda: networks(cascade), runs),
    }


@torch.no_grad()
def networks(cascade: Cascade) -> None:
    """The calls of the networks that one picture takes at default settings: guidance doubles Stage C's batch."""
    parts, drawing = cascade.components, cascade.drawing
    side = round(drawing.image_size / drawing.compression)
    texts = parts.text.encode([PROMPT, ""], 1)
    latents = torch.randn(2, parts.stage_c.config.trunk.in_channels, side, side).to(parts.device, parts.dtype)
    conditions = parts.stage_c.encode_conditions(texts.hidden, texts.pooled)
    times = torch.rand(2, device=parts.device)
    for _ in range(drawing.steps):
        parts.stage_c(latents, times, **conditions)
    inner = drawing.image_size // 4
    conditions = parts.stage_b.encode_conditions(latents[:1], texts.pooled[:1], size=(inner, inner))
    drawn = torch.randn(1, parts.stage_b.config.trunk.in_channels, inner, inner).to(parts.device, parts.dtype)
    for _ in range(drawing.decoder_steps):
        parts.stage_b(drawn, times[:1], **conditions)
    parts.stage_a.decode(drawn)


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="a shipped model or a folder (default tiny)")
    parser.add_argument("--runs", type=int, default=5, help="how often each case counts (default 5)")
    parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
    options = parser.parse_args()
    found = cold(options.model, options.runs) | warm(options.model, options.runs)
    for name, value in found.items():
        print(f"{name:36} {value:7.3f} s")
    command, further = found["littlecascade generate"], found["a further picture"]
    print(f"{'generate / import torch':36} {command / found['import torch']:7.2f} x")
    print(f"{'a further picture / its networks':36} {further / found['its networks alone']:7.2f} x")
    print(f"{torch.get_num_threads()} threads")
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
