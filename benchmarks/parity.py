"""How far drawing is from diffusers' with the same weights, noise and settings, in float32.

python benchmarks/parity.py [--size lite] [--narrow 4] [--picture 384x256] [--batch 2]
python benchmarks/parity.py --model tiny [--picture 128x128]

The first form makes weights up for the networks of a size, a fraction as wide (`--narrow 1`: all of it; lite then takes
8 GiB of memory and 14 GiB of disk). The second draws with a model that is there. Stage C takes 20 steps with guidance
4, Stage B 10 steps, Stage A decodes. Our side is what `Cascade.generate` calls; the other one is diffusers' pipelines
with its scheduler, over networks that it loads from a folder in its format.

The two are meant to differ in three places, see docs/differences.md. Agreement is measured with the first two changed
on diffusers' side and our rescale off; then each is let loose alone, to see what it makes of the picture.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    DDPMWuerstchenScheduler,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    StableCascadeUNet,
)
from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import PaellaVQModel
from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenSchedulerOutput
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from littlecascade import Cascade
from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.conditioning.prompts import Prompt
from littlecascade.conditioning.text import TextEmbedding
from littlecascade.data.order import derive_seed
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.diffusion.process import V
from littlecascade.models.config import StageBConfig, StageCConfig, to_dict
from littlecascade.pipelines import decoder, prior
from littlecascade.pipelines.conversion import convert_model
from littlecascade.pipelines.sampling import Settings
from littlecascade.pipelines.session import Session
from littlecascade.pipelines.size import Frame
from littlecascade.presets import PRESETS, Preset

TEXT_TOKENS = 77
NEGATIVE = "blurred"
PROMPTS = ("a red apple", "two small dogs on a green hill", "a blue car")


class Drawn(NamedTuple):
    """Stage C's latents (B, 16, h, w), and the picture (B, 3, H, W) before it is cut to what a file can hold."""

    latents: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Case:
    """What both sides draw: our model, the same in a folder of diffusers' format, the words, and how."""

    cascade: Cascade
    folder: Path
    words: prior.Words
    seeds: list[int]
    frame: Frame
    prior: Settings
    decoder: Settings


@torch.no_grad()
def draw_ours(case: Case) -> Drawn:
    """Through the functions that draw for `Cascade`."""
    parts, words = case.cascade.components, case.words
    session = Session(parts)
    latents = prior.draw_latents(parts, session, words, None, case.seeds, case.frame, case.prior)
    fine = decoder.draw_fine(parts, session, latents, case.seeds, case.frame, case.decoder, words)
    pixels = decoder.to_pixels(parts, session, fine, case.frame)
    parts.free()
    return Drawn(latents, pixels)


@torch.no_grad()
def draw_theirs(case: Case, *, true_time: bool = True, clean_end: bool = True) -> Drawn:
    """Through diffusers' pipelines, each picture with the noise that its seed gives here.

    true_time: tell the networks the time of the noise that there is, as the official code does; diffusers says 1 at
    the first step, where its schedule has less noise. clean_end: take the last step to x0.
    """
    scheduler = CleanEnd() if clean_end else DDPMWuerstchenScheduler()
    common = {"tokenizer": None, "text_encoder": _smallest_text_encoder(), "scheduler": scheduler}
    compression, (width, height) = case.cascade.drawing.compression, case.frame.size

    network = _unet(case, "prior", "stage_c", true_time)
    pipeline = StableCascadePriorPipeline(prior=network, resolution_multiple=compression, **common)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        **_embeddings(case.words, case.prior),
        height=height,
        width=width,
        num_inference_steps=case.prior.steps,
        guidance_scale=case.prior.guidance,
        generator=_generators(case.seeds, 0),
    ).image_embeddings
    del pipeline, network

    network = _unet(case, "decoder", "stage_b", true_time)
    stage_a = PaellaVQModel.from_pretrained(case.folder / "vqgan", low_cpu_mem_usage=False)
    pipeline = StableCascadeDecoderPipeline(decoder=network, vqgan=stage_a, latent_dim_scale=compression / 4, **common)
    pipeline.set_progress_bar_config(disable=True)
    fine = pipeline(
        image_embeddings=latents,
        **_embeddings(case.words, case.decoder),
        num_inference_steps=case.decoder.steps,
        guidance_scale=case.decoder.guidance,
        generator=_generators(case.seeds, 1),
        output_type="latent",
    ).images
    return Drawn(latents, stage_a.decode(stage_a.config.scale_factor * fine).sample)


class CleanEnd(DDPMWuerstchenScheduler):
    """diffusers' scheduler, but that its last step lands on the estimate of x0."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, *args: Any, **options: Any) -> Any:
        if self.previous_timestep(timestep).any():
            return super().step(model_output, timestep, sample, *args, **options)
        kept = self._alpha_cumprod(timestep, sample.device).view(-1, 1, 1, 1)
        return DDPMWuerstchenSchedulerOutput((sample - (1 - kept).sqrt() * model_output) / kept.sqrt())


def _smallest_text_encoder() -> CLIPTextModelWithProjection:
    """The pipelines are given embeddings, but ask a text encoder for its number format."""
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "bos_token_id": 0, "eos_token_id": 1}
    return CLIPTextModelWithProjection(CLIPTextConfig(**sizes, num_hidden_layers=1, num_attention_heads=1))


def _unet(case: Case, folder: str, role: str, true_time: bool) -> StableCascadeUNet:
    network = StableCascadeUNet.from_pretrained(case.folder / folder, low_cpu_mem_usage=False)
    parametrisation = case.cascade.components.parametrisation(role)
    if parametrisation not in (Parametrisation(), Parametrisation(V)):
        raise SystemExit(f"diffusers' scheduler has no place for {parametrisation}.")
    if parametrisation.target is V:
        network.register_forward_hook(_noise_from_v, with_kwargs=True)
    if true_time:
        schedule = parametrisation.schedule
        noisiest = schedule.time(schedule.logsnr(torch.tensor(1.0))).item()
        network.register_forward_pre_hook(
            lambda _, args, given: (args, given | {"timestep_ratio": given["timestep_ratio"].clamp(max=noisiest)}),
            with_kwargs=True,
        )
    return network


def _noise_from_v(_: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any], output: tuple[Tensor]) -> Any:
    """The noise that a prediction of v means, which is what diffusers' scheduler takes."""
    kept = DDPMWuerstchenScheduler()._alpha_cumprod(given["timestep_ratio"], output[0].device).view(-1, 1, 1, 1)
    return (kept.sqrt() * output[0] + (1 - kept).sqrt() * given["sample"],)


def _embeddings(words: prior.Words, settings: Settings) -> dict[str, Tensor]:
    given = {"prompt_embeds": words.prompts.hidden, "prompt_embeds_pooled": words.prompts.pooled}
    if settings.guidance == 1:
        return given
    hidden, pooled = (rows.expand(len(words.numbers), -1, -1) for rows in words.negative)
    return given | {"negative_prompt_embeds": hidden, "negative_prompt_embeds_pooled": pooled}


def _generators(seeds: list[int], stage: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(derive_seed(seed, stage)) for seed in seeds]


def difference(one: Tensor, other: Tensor) -> float:
    """The greatest one, in standard deviations of `other`."""
    return ((one - other).abs().max() / other.std()).item()


def narrowed(preset: Preset, divisor: int) -> Preset:
    """A size with all its layers, each a fraction as wide, that draws as the official ones do."""

    def narrow(stage: StageBConfig | StageCConfig) -> Any:
        widths = tuple(width // divisor for width in stage.trunk.widths)
        return replace(stage, trunk=replace(stage.trunk, widths=widths, cond_width=stage.trunk.cond_width // divisor))

    return replace(
        preset,
        stage_a=replace(preset.stage_a, width=preset.stage_a.width // divisor),
        stage_b=narrow(preset.stage_b),
        stage_c=narrow(preset.stage_c),
        drawing=replace(preset.drawing, compression=42.67),
    )


def make_model(preset: Preset, folder: Path) -> Cascade:
    """A model of the three stages with made-up weights: those that training starts from, and none of them zero."""
    for number, role in enumerate(("stage_a", "stage_b", "stage_c")):
        network, generator = ROLES[role].network(getattr(preset, role)), torch.Generator().manual_seed(number)
        network.initialise(generator)
        for name, parameter in network.named_parameters():
            if not parameter.any():
                vector = parameter.ndim == 1 or name.endswith(("gamma", "beta"))
                nn.init.normal_(parameter, std=0.1 if vector else parameter[0].numel() ** -0.5, generator=generator)
        save_network(role, network, folder / ROLES[role].file, dtype=torch.float32)
    (folder / "cascade.json").write_text(json.dumps(to_dict(preset.drawing)), "utf-8")
    return Cascade.load(str(folder), device="cpu", precision="float32")


def made_up_words(preset: Preset, count: int) -> prior.Words:
    """Embeddings such as text encoders give, but random."""
    generator = torch.Generator().manual_seed(5)

    def embeddings(rows: int) -> TextEmbedding:
        hidden = torch.randn(rows, TEXT_TOKENS, preset.stage_c.text_width, generator=generator)
        return TextEmbedding(hidden, torch.randn(rows, 1, preset.stage_c.pooled_width, generator=generator))

    return prior.Words(list(range(count)), embeddings(count), embeddings(1))


def made_up_case(preset: Preset, size: tuple[int, int], batch: int, folder: Path) -> Case:
    """A model of this size with made-up weights, in both formats."""
    cascade = make_model(preset, folder / "own")
    return _case(cascade, made_up_words(preset, batch), size, batch, folder)


def case_of_model(name: str, size: tuple[int, int], batch: int, folder: Path) -> Case:
    """A model that is there, and the same in diffusers' format; prompts through its own text encoder."""
    cascade = Cascade.load(name, device="cpu", precision="float32")
    parts = cascade.components
    prompts = [Prompt.parse(PROMPTS[number % len(PROMPTS)]) for number in range(batch)]
    (words,) = prior.embed_words(parts, Session(parts), prompts, Prompt.parse(NEGATIVE))
    return _case(cascade, words, size, batch, folder)


def _case(cascade: Cascade, words: prior.Words, size: tuple[int, int], batch: int, folder: Path) -> Case:
    convert_model(cascade.components.model.name, folder / "diffusers", "diffusers")
    frame = Frame.of(size, cascade.drawing.compression)
    seeds = [3 + number for number in range(batch)]
    settings = [Settings("ddpm", steps, guidance, rescale=0.0) for steps, guidance in ((20, 4.0), (10, 1.0))]
    return Case(cascade, folder / "diffusers", words, seeds, frame, *settings)


def measure(case: Case) -> dict[str, tuple[float, float]]:
    """Differences of latents and pictures: as reconciled, then with each difference on purpose let loose alone."""
    began = time.perf_counter()
    ours = draw_ours(case)
    middle = time.perf_counter()
    theirs = draw_theirs(case)
    print(f"drawn in {middle - began:.1f} s here, in {time.perf_counter() - middle:.1f} s by diffusers")
    rescaled = replace(case, prior=replace(case.prior, rescale=0.7))
    others = {
        "reconciled": (ours, theirs),
        "the network's time at the first step": (ours, draw_theirs(case, true_time=False)),
        "where the last step lands": (ours, draw_theirs(case, clean_end=False)),
        "guidance rescale 0.7": (draw_ours(rescaled), theirs),
    }
    return {name: (difference(a.latents, b.latents), difference(a.pixels, b.pixels)) for name, (a, b) in others.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="lite", choices=PRESETS, help="whose networks get made-up weights")
    parser.add_argument("--narrow", type=int, default=4, help="how many times narrower they are (default 4)")
    parser.add_argument("--model", help="a model to draw with instead, by its name or folder")
    parser.add_argument("--picture", default="384x256", help="WIDTHxHEIGHT (default 384x256)")
    parser.add_argument("--batch", type=int, default=2, help="how many pictures at a time (default 2)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    width, height = map(int, options.picture.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            preset = narrowed(PRESETS[options.size], options.narrow)
            case = made_up_case(preset, (width, height), options.batch, Path(folder))
        else:
            case = case_of_model(options.model, (width, height), options.batch, Path(folder))
        found = measure(case)
        print(f"{'greatest difference, in deviations':40} {'latents':>10} {'picture':>10}")
        for name, (latents, pixels) in found.items():
            print(f"{name:40} {latents:10.2e} {pixels:10.2e}")


if __name__ == "__main__":
    main()
