"""How long one call of each network takes, beside diffusers' with the same made-up weights.

python benchmarks/speed.py [--size lite] [--parts stage_c,stage_b,stage_a] [--dtype bfloat16] [--threads 2] [--runs 5]

The calls are those of a 1024 x 1024 picture: a step of Stage C for two rows, as guidance has it, a step of Stage B, and
Stage A's decoder. Both sides share the weights in memory and take turns, so that what else the machine does meets both;
the medians count. What no step changes is computed once per picture here and is not in these times; diffusers computes
it at each step. The time is 0, since diffusers embeds it in the networks' format, where most times lose their meaning.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import PaellaVQModel
from torch import Tensor, nn

from littlecascade.checkpoint.assign import build
from littlecascade.checkpoint.formats import FORMATS
from littlecascade.checkpoint.formats.diffusers import write_config
from littlecascade.checkpoint.networks import ROLES
from littlecascade.models.config import to_dict
from littlecascade.presets import PRESETS, Preset

TEXT_TOKENS = 77
SIDE_C, SIDE_B = 24, 256


class Calls(NamedTuple):
    """The same computation on both sides."""

    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]


def stage_c(preset: Preset, dtype: torch.dtype) -> Calls:
    """A step for a prompt and the negative one."""
    ours, theirs = networks(preset, "stage_c", dtype)
    config = preset.stage_c
    x, time_ratio = torch.randn(2, 16, SIDE_C, SIDE_C), torch.zeros(2)
    text = torch.randn(2, TEXT_TOKENS, config.text_width, dtype=dtype)
    pooled, image = torch.randn(2, 1, config.pooled_width, dtype=dtype), torch.zeros(2, 1, config.image_width).to(dtype)
    conditions = ours.encode_conditions(text, pooled, image)
    given = {"clip_text": text, "clip_text_pooled": pooled, "clip_img": image}
    return Calls(
        lambda: ours(x, time_ratio, **conditions),
        lambda: theirs(x.to(dtype), time_ratio.to(dtype), **given).sample,
    )


def stage_b(preset: Preset, dtype: torch.dtype) -> Calls:
    """A step without guidance."""
    ours, theirs = networks(preset, "stage_b", dtype)
    x, time_ratio = torch.randn(1, 4, SIDE_B, SIDE_B), torch.zeros(1)
    effnet = torch.randn(1, 16, SIDE_C, SIDE_C, dtype=dtype)
    pooled = torch.randn(1, 1, preset.stage_b.pooled_width, dtype=dtype)
    conditions = ours.encode_conditions(effnet, pooled, size=(SIDE_B, SIDE_B))
    pixels = torch.zeros(1, 3, 8, 8, dtype=dtype)
    given = {"clip_text_pooled": pooled, "effnet": effnet, "pixels": pixels}
    return Calls(
        lambda: ours(x, time_ratio, **conditions),
        lambda: theirs(x.to(dtype), time_ratio.to(dtype), **given).sample,
    )


def stage_a(preset: Preset, dtype: torch.dtype) -> Calls:
    """The decoder."""
    ours, theirs = networks(preset, "stage_a", dtype)
    latents = torch.randn(1, 4, SIDE_B, SIDE_B, dtype=dtype)
    return Calls(lambda: ours.decode(latents), lambda: theirs.decode(latents * preset.stage_a.scale).sample)


PARTS: dict[str, Callable[[Preset, torch.dtype], Calls]] = {"stage_c": stage_c, "stage_b": stage_b, "stage_a": stage_a}


def networks(preset: Preset, role: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Ours and diffusers', over the same tensors."""
    config = getattr(preset, role)

    def diffusers() -> nn.Module:
        arguments = write_config(role, to_dict(config))
        kind = {"StableCascadeUNet": StableCascadeUNet, "PaellaVQModel": PaellaVQModel}[arguments.pop("_class_name")]
        return kind(**arguments)

    with torch.device("meta"):
        outline = ROLES[role].network(config).state_dict()
    tensors = {name: made_up(tensor, dtype) for name, tensor in outline.items()}
    renamed = dict(FORMATS["diffusers"].naming(role).encode(tensors))
    return build(lambda: ROLES[role].network(config), tensors).eval(), build(diffusers, renamed).eval()


def made_up(outline: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights that keep what goes through them at about its size."""
    if not outline.is_floating_point():
        return torch.zeros(outline.shape, dtype=outline.dtype)
    return torch.empty(outline.shape, dtype=dtype).normal_(std=outline[0].numel() ** -0.5 if outline.ndim > 1 else 0.02)


def seconds(calls: Calls, runs: int) -> tuple[float, float]:
    """The medians of `runs` calls of each in turn, after one that does not count."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(runs + 1):
        for call, own in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            own.append(time.perf_counter() - began)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="lite", choices=PRESETS, help="whose networks (default lite)")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them, comma-separated (default all)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="default bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default 2)")
    parser.add_argument("--runs", type=int, default=5, help="how often each call counts (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{options.size}, {options.dtype}, {options.threads} threads: seconds here, in diffusers, and their ratio")
    for part in options.parts.split(","):
        calls = PARTS[part](PRESETS[options.size], getattr(torch, options.dtype))
        one, other = calls.ours().float(), calls.theirs().float()
        ours, theirs = seconds(calls, options.runs)
        rounding = ((one - other).norm() / other.norm()).item()
        print(f"{part:8} {ours:8.3f} {theirs:8.3f} {ours / theirs:6.2f}   results differ by {rounding:.1e}")


if __name__ == "__main__":
    main()
