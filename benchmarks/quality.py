"""How good the drawn emoji are, beside the real ones, at default settings with one fixed seed and none picked.

python benchmarks/quality.py [--model tiny] [--data runs/emoji/data] [--out runs/quality] [--quick]

Prompt number k of each part is drawn once, with seed k, whatever the size of a batch. The parts:

right thing     500 names spread over the groups. The names are ordered by how near (mean square over 32 x 32 pixels)
                their nearest real picture is to the drawn one: top-1 counts those where the right name comes first,
                top-5 those where it is one of the first five. Recoloured pictures are not compared with.
new pairs       100 held-out pairs of colour and thing. Colour: the hue that dominates, by the recolouring's own rule,
                has the word that was asked for. Thing: top-5 in grey, among all pictures, recoloured ones too.
new words       the held-out synonyms, top-5 as above.
reconstruction  a real picture of each of the 500 names: PSNR over all values, and the energy of the gradients as a
                share of the originals'.

"Reconstructed" rows put real pictures through compressor, Stage B and Stage A: no drawing can be expected to do better.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[1] / "recipes" / "emoji"))

from emoji_reference import Reference, originals_of, thing
from measures import Gallery, gradient_energy, grey, main_colour, small, within

from littlecascade import Cascade
from littlecascade.conditioning.prompts import escape
from littlecascade.data.cache import Cache
from littlecascade.data.pixels import to_image, to_tensor
from littlecascade.training.tasks.common import psnr

SEED = 0
NAMES, PAIRS, WORDS = 500, 100, 50
BATCH = 8


@dataclass(frozen=True)
class Figure:
    """One measured value; `least` and `most` say what was asked of it, if anything."""

    part: str
    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value is as asked; None where nothing was."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def asked(self) -> str:
        """What was asked, in words."""
        bounds = (("at least", self.least), ("at most", self.most))
        return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Reconstructions:
    """Real pictures (N, 3, H, W) and what different ways through the networks make of them."""

    originals: Tensor
    whole: Tensor
    previewed: Tensor
    stage_a: Tensor


def draw(cascade: Cascade, prompts: Sequence[str], label: str) -> Tensor:
    """A picture (3, H, W) of each prompt."""

    def one_batch(start: int) -> Tensor:
        result = cascade.generate([escape(prompt) for prompt in prompts[start : start + BATCH]], seed=SEED + start)
        return torch.stack([to_tensor(image) for image in result.images])

    return _in_batches(one_batch, len(prompts), label)


def reconstruct(cascade: Cascade, cache: Cache, rows: Sequence[int], label: str) -> Tensor:
    """The pictures of these rows through compressor, Stage B and Stage A."""
    size = cache.rows[0].size

    def one_batch(start: int) -> Tensor:
        encoded = cascade.encode([to_image(picture) for picture in originals_of(cache, rows[start : start + BATCH])])
        decoded = cascade.decode(encoded.latents, size=size, seed=SEED + start)
        return torch.stack([to_tensor(image) for image in decoded.images])

    return _in_batches(one_batch, len(rows), label)


@torch.no_grad()
def shortcuts(cascade: Cascade, originals: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures through compressor and previewer, and through Stage A alone."""
    parts = cascade.components

    def previewed(start: int) -> Tensor:
        pixels = originals[start : start + BATCH].to(parts.device, parts.dtype)
        shown = parts.previewer(parts.compressor(pixels)).float()
        return F.interpolate(shown, originals.shape[-2:], mode="bicubic").clamp(0, 1).cpu()

    def stage_a(start: int) -> Tensor:
        pixels = originals[start : start + BATCH].to(parts.device, parts.dtype)
        return parts.stage_a.decode(parts.stage_a.encode(pixels)).float().clamp(0, 1).cpu()

    count = len(originals)
    return _in_batches(previewed, count, "previewer"), _in_batches(stage_a, count, "Stage A")


def right_thing(drawn: Tensor, whole: Tensor, names: Sequence[str], gallery: Gallery) -> list[Figure]:
    """Whether pictures look like what their prompt names."""
    own, best = (gallery.ranks(small(pictures), names) for pictures in (drawn, whole))
    part = "right thing"
    return [
        Figure(part, "top-1", within(own, 1), "%", least=75),
        Figure(part, "top-5", within(own, 5), "%", least=90),
        Figure(part, "top-1, reconstructed", within(best, 1), "%"),
        Figure(part, "top-5, reconstructed", within(best, 5), "%"),
    ]


def new_pairs(
    drawn: Tensor, whole: Tensor, colours: Sequence[str], things: Sequence[str], gallery: Gallery
) -> list[Figure]:
    """Whether pictures have the colour and show the thing that were never trained on together."""
    figures: list[Figure] = []
    for pictures, suffix, bars in ((drawn, "", (90, 60)), (whole, ", reconstructed", (None, None))):
        found = [main_colour(to_image(picture)) for picture in pictures]
        right = 100 * sum(own == asked for own, asked in zip(found, colours, strict=True)) / len(colours)
        ranks = gallery.ranks(grey(small(pictures)), things)
        figures += [
            Figure("new pairs", f"colour{suffix}", right, "%", least=bars[0]),
            Figure("new pairs", f"thing, top-5 in grey{suffix}", within(ranks, 5), "%", least=bars[1]),
        ]
    return figures


def fidelity(pictures: Reconstructions) -> list[Figure]:
    """How much of a picture comes back."""
    part, originals = "reconstruction", pictures.originals
    whole, previewed = psnr(originals, pictures.whole), psnr(originals, pictures.previewed)
    energy = gradient_energy(pictures.whole) / gradient_energy(originals)
    blurred = gradient_energy(pictures.previewed) / gradient_energy(originals)
    return [
        Figure(part, "compressor, B and A", whole, "dB", least=24),
        Figure(part, "compressor and previewer", previewed, "dB"),
        Figure(part, "the former minus the latter", whole - previewed, "dB", least=-0.5),
        Figure(part, "Stage A alone", psnr(originals, pictures.stage_a), "dB", least=30),
        Figure(part, "gradient energy, compressor, B and A", energy, "x", least=0.85, most=1.15),
        Figure(part, "gradient energy, compressor and previewer", blurred, "x"),
    ]


def measure(cascade: Cascade, reference: Reference, share: float) -> list[Figure]:
    """All figures, over `share` of the prompts and pictures."""
    names = reference.names(round(NAMES * share))
    words = list(reference.synonyms)[: round(WORDS * share)]
    pair_rows = reference.held_out_pairs(round(PAIRS * share))
    pairs = [reference.held_out.rows[row].fields for row in pair_rows]
    cascade.generate(names[0], seed=SEED)  # reads the weights, which is not drawing
    began = time.perf_counter()
    drawn = draw(cascade, names, "names")
    seconds = time.perf_counter() - began
    drawn_pairs = draw(cascade, [facts["name"] for facts in pairs], "pairs")
    drawn_words = draw(cascade, words, "words")
    rows = reference.pictures_of(names)
    originals = originals_of(reference.training, rows)
    whole = reconstruct(cascade, reference.training, rows, "reconstructions")
    whole_pairs = reconstruct(cascade, reference.held_out, pair_rows, "pairs' reconstructions")
    cascade.components.free("text", "stage_c", "stage_b")
    pictures = Reconstructions(originals, whole, *shortcuts(cascade, originals))
    gallery = reference.colour_gallery()
    meant = [reference.synonyms[word] for word in words]
    things = [thing(facts["name"], facts["colour"]) for facts in pairs]
    colours = [facts["colour"] for facts in pairs]
    word_ranks = gallery.ranks(small(drawn_words), meant)
    return [
        *right_thing(drawn, whole, names, gallery),
        *new_pairs(drawn_pairs, whole_pairs, colours, things, reference.grey_gallery()),
        Figure("new words", "top-1", within(word_ranks, 1), "%"),
        Figure("new words", "top-5", within(word_ranks, 5), "%", least=40),
        *fidelity(pictures),
        Figure("speed", f"pictures per second, {BATCH} at a time", len(names) / seconds, "/s"),
        Figure("speed", "seconds per picture", seconds / len(names), "s"),
    ]


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    verdicts = {None: "", True: "yes", False: "no"}
    rows = [
        f"| {one.part} | {one.name} | {one.value:.3g} {one.unit} | {one.asked()} | {verdicts[one.met]} |"
        for one in figures
    ]
    return "\n".join(["| part | figure | measured | asked | met |", "| --- | --- | --- | --- | --- |", *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write `quality.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="a shipped model or a folder (default tiny)")
    parser.add_argument("--data", type=Path, default=Path("runs/emoji/data"), help="what recipes/emoji/build.py wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder for quality.json")
    parser.add_argument("--quick", action="store_true", help="a tenth of the prompts and pictures")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    cascade = Cascade.load(options.model)
    reference = Reference.load(options.data, cascade.drawing.image_size)
    figures = measure(cascade, reference, share=0.1 if options.quick else 1.0)
    report = {
        "model": options.model,
        "digest": cascade.components.model.digest,
        "seed": SEED,
        "quick": options.quick,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - began, 1),
        "figures": [asdict(one) | {"met": one.met} for one in figures],
        "table": table(figures),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "quality.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(report["table"])


def _in_batches(function: Callable[[int], Tensor], count: int, label: str) -> Tensor:
    """What `function` makes of the batches that start at 0, `BATCH`, ..., joined."""
    return torch.cat([function(start) for start in tqdm(range(0, count, BATCH), desc=label, disable=None)])


if __name__ == "__main__":
    main()
