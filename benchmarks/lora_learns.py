"""What a LoRA of the shipped tiny cascade learns from a dozen drawings, and what else it changes.

python benchmarks/lora_learns.py [--config configs/training/lora_tiny.yaml] [--seeds 0,1,2] [--set KEY=VALUE ...]
    [--data runs/emoji/data] [--out runs/lora_learns]

Trains the configuration once with each seed (a run that is in `--out` already is used as it is) and has an independent
network look at the pictures (`judge.py` says what to install). Pictures are compared by the cosine of their features,
at 48 x 48: what is finer is Stage B's, which a LoRA of Stage C leaves as it is.

known       64 names that the model was trained with: how near its drawings of them are to the real ones. No more can
            be expected of a LoRA.
subject     "[bim]" with the LoRA beside "robot" without it, with the same seeds: how near both are to drawings of Bim
            that were not trained with, and how often the nearest of them and of 64 emoji is a drawing of Bim.
contexts    the same for wordings that no caption has, of which nothing is asked.
others      48 names, none of them a prior prompt, drawn with the LoRA and without it from the same seeds: how far the
            pictures move beside how far two seeds of one name are apart without the LoRA, by the judge and by their
            pixels; and how many are nearest to a real picture of what they should show (`quality.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "recipes" / "emoji"))
sys.path.append(str(Path(__file__).parents[1] / "examples" / "bim"))

import draw as bim
from emoji_reference import Reference, originals_of
from judge import Judge
from measures import Gallery, small, within
from quality import Figure, table

from littlecascade import Adapter, Cascade
from littlecascade.conditioning.prompts import escape
from littlecascade.data.pixels import to_tensor
from littlecascade.training.run import train
from littlecascade.training.tasks.common import grid

ROOT = Path(__file__).parents[1]
TOKEN, BEGUN_AS = "[bim]", "robot"
CONTEXTS = ("{} in flat style", "{} in 3d style", "a cartoon of {}", "the {}", "{} symbol", "a picture of a cute {}")
SHOWN = (*3 * [f"a drawing of {TOKEN}"], *3 * [TOKEN])
HELD_OUT = range(12, 24)
"""Drawings of Bim; the example has those before."""
THINGS, NAMES, SUBJECTS, BATCH = 64, 48, 12, 8
SIDE = 48
"""Pictures are compared with this many pixels a side."""
OTHER_SEED = 1000
"""Added to a picture's seed for the second picture of a name."""


class Drawer:
    """Draws with a LoRA or without it; each prompt's picture from a seed of its own."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    def __call__(self, prompts: Sequence[str], adapters: Sequence[Adapter] = (), seed: int = 0) -> Tensor:
        """(N, 3, H, W) in [0, 1], picture k from `seed` + k."""
        images = [
            image
            for start in range(0, len(prompts), BATCH)
            for image in self.cascade.generate(
                prompts[start : start + BATCH], seed=seed + start, adapters=adapters
            ).images
        ]
        return torch.stack([to_tensor(image) for image in images])


def subject(part: str, own: Tensor, before: Tensor, drawings: Tensor, things: Tensor) -> list[Figure]:
    """How near pictures are to drawings of the subject. All are features (N, C), `things` those of other things."""
    nearness = [float((features @ drawings.T).mean()) for features in (own, before)]
    found = (own @ drawings.T).amax(1) > (own @ things.T).amax(1)
    margin, share = (0.3, 90.0) if part == "subject" else (None, None)
    return [
        Figure(part, "nearness with the LoRA", nearness[0], ""),
        Figure(part, "nearness without it", nearness[1], ""),
        Figure(part, "margin", nearness[0] - nearness[1], "", least=margin),
        Figure(part, "nearest is a drawing of it", 100 * float(found.float().mean()), "%", least=share),
    ]


def others(
    look: Callable[[Tensor], Tensor], drawn: dict[str, Tensor], names: Sequence[str], gallery: Gallery
) -> list[Figure]:
    """How much other prompts change. drawn: pictures "with" and "without" the LoRA, and of "other" seeds without it."""
    seen = {way: look(pictures) for way, pictures in drawn.items()}
    moved, apart = (float(1 - (seen[way] * seen["without"]).sum(1).mean()) for way in ("with", "other"))
    pixels = [float((drawn[way] - drawn["without"]).square().mean()) for way in ("with", "other")]
    right = {way: within(gallery.ranks(small(pictures), names), 1) for way, pictures in drawn.items()}
    part = "others"
    return [
        Figure(part, "distance to the picture without the LoRA", moved, ""),
        Figure(part, "distance of two seeds", apart, ""),
        Figure(part, "the former as a share of the latter", moved / apart, "x", most=1),
        Figure(part, "the same by pixels", pixels[0] / pixels[1], "x", most=1),
        Figure(part, "top-1 without the LoRA", right["without"], "%"),
        Figure(part, "top-1 with it", right["with"], "%"),
        Figure(part, "top-1 that is lost", right["without"] - right["with"], "points", most=5),
    ]


def shrunk(pictures: Tensor, side: int = SIDE) -> Tensor:
    """(N, 3, H, W) as (N, 3, side, side), each value the mean of the area that it stands for."""
    return F.interpolate(pictures, (side, side), mode="area")


class Bench:
    """What is the same for every LoRA: the model, the judge, the real pictures, and what is drawn without a LoRA."""

    def __init__(self, data: Path) -> None:
        self.drawer = Drawer(Cascade.load("tiny"))
        reference = Reference.load(data, self.drawer.cascade.drawing.image_size)
        known = reference.names(THINGS)
        real = originals_of(reference.training, reference.pictures_of(known))
        self.judge = Judge(shrunk(real))
        self.things = self.look(real)
        own = self.look(self.drawer([escape(name) for name in known]))
        self.known = Figure("known", "nearness to the real picture", float((own * self.things).sum(1).mean()), "")
        self.gallery = reference.colour_gallery()
        self.drawings = self.look(drawings(HELD_OUT))
        self.names = reference.names(NAMES)
        plain = [escape(name) for name in self.names]
        self.without = self.drawer(plain)
        self.other = self.drawer(plain, seed=OTHER_SEED)
        self.before = {part: self.look(self.drawer(prompts)) for part, prompts in prompts_of(BEGUN_AS).items()}

    def look(self, pictures: Tensor) -> Tensor:
        """The judge's features, (N, C), of pictures (N, 3, H, W) in [0, 1]."""
        return self.judge(shrunk(pictures))

    def show(self, adapter: Adapter) -> Image.Image:
        """Six of the drawings that were trained with, above six pictures of the LoRA."""
        trained_with = shrunk(drawings(range(6)), self.drawer.cascade.drawing.image_size)
        return grid([list(trained_with), list(self.drawer(SHOWN, [adapter]))])

    def measure(self, adapter: Adapter) -> list[Figure]:
        """All figures of one LoRA."""
        figures = [self.known]
        for part, prompts in prompts_of(TOKEN).items():
            own = self.look(self.drawer(prompts, [adapter]))
            figures += subject(part, own, self.before[part], self.drawings, self.things)
        drawn = {"without": self.without, "other": self.other}
        drawn["with"] = self.drawer([escape(name) for name in self.names], [adapter])
        return figures + others(self.look, drawn, self.names, self.gallery)


def drawings(numbers: Sequence[int]) -> Tensor:
    """Drawings of Bim, (N, 3, H, W) in [0, 1]."""
    return torch.stack([to_tensor(bim.draw(number)) for number in numbers])


def prompts_of(name: str) -> dict[str, list[str]]:
    """The prompts of the first two parts, for the token or for the word that it began as."""
    contexts = [context.format(name) for context in CONTEXTS]
    return {"subject": [name] * SUBJECTS, "contexts": [prompt for prompt in contexts for _ in range(2)]}


def trained(config: Path, seed: int, overrides: Sequence[str], out: Path) -> tuple[Adapter, float]:
    """The LoRA that a run ends with, and the seconds that it took."""
    own = [f"output_path={out}", f"experiment_id=seed{seed}", f"seed={seed}", *overrides]
    began = time.perf_counter()
    path = out / f"seed{seed}" / "export" / f"seed{seed}.safetensors"
    if not path.is_file() and train("lora", config, own) is None:
        raise SystemExit("stopped: the same command goes on from here")
    return Adapter.load(path), time.perf_counter() - began


def mean(runs: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The figures' means over several runs."""
    return [replace(same[0], value=fmean(one.value for one in same)) for same in zip(*runs, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print a table of means, and write every run's figures to `learns.json`, pictures to `bim.png`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "training" / "lora_tiny.yaml")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the configuration")
    parser.add_argument("--data", type=Path, default=Path("runs/emoji/data"), help="what recipes/emoji/build.py wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/lora_learns"))
    options = parser.parse_args(arguments)
    runs: dict[int, list[Figure]] = {}
    adapters: dict[int, Adapter] = {}
    for seed in map(int, options.seeds.split(",")):
        adapters[seed], seconds = trained(options.config, seed, options.set, options.out)
        print(f"seed {seed}: trained in {seconds:.0f} s", file=sys.stderr)
    bench = Bench(options.data)
    for seed, adapter in adapters.items():
        runs[seed] = bench.measure(adapter)
    bench.show(next(iter(adapters.values()))).save(options.out / "bim.png")
    report = {seed: [asdict(one) | {"met": one.met} for one in figures] for seed, figures in runs.items()}
    (options.out / "learns.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(table(mean(list(runs.values()))))


if __name__ == "__main__":
    main()
