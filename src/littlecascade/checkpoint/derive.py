"""The configuration of a network from the names and shapes of its tensors.

What weights do not show is taken to be as in the official release: heads of 64 channels, patches of 1 in Stage C and 2
in Stage B, no change of resolution where a level could switch it. A compressor's strides can't be told at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, takewhile
from typing import Any

from torch import Tensor

Shapes = Mapping[str, Sequence[int]]
Values = dict[str, Any]

_HEAD = 64  # channels
_PATCH = {"stage_b": 2, "stage_c": 1}
_UNSEEN = {"dropout", "heads", "self_attention", "switch_level", "stride", "scale", "activation", "eps", "eos_token_id"}
_KINDS = {"depthwise.weight": "C", "mapper.weight": "T", "kv_mapper.1.weight": "A"}


def derive(role: str, outline: Mapping[str, Tensor]) -> Values | None:
    """The plain values of a part's configuration, None where its tensors are not as they should be or don't tell."""
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.items()}
    try:
        return _DERIVED[role](shapes) if role in _DERIVED else None
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def structure(values: Any) -> Any:
    """What of a configuration's plain values shows in names and shapes: two that agree in it fit the same tensors."""
    if isinstance(values, Mapping):
        seen = {name: structure(value) for name, value in values.items() if name not in _UNSEEN}
        return seen | ({"switches": values["switch_level"] is not None} if "switch_level" in values else {})
    return [structure(value) for value in values] if isinstance(values, list | tuple) else values


def _stage_b(shapes: Shapes) -> Values:
    trunk = _trunk("stage_b", shapes)
    rows, pooled = shapes["clip_mapper.weight"]
    return {
        "trunk": trunk,
        "pooled_width": pooled,
        "tokens_per_vector": rows // trunk["cond_width"],
        "effnet_channels": shapes["effnet_mapper.0.weight"][1],
        "pixel_channels": shapes["pixels_mapper.0.weight"][1],
    }


def _stage_c(shapes: Shapes) -> Values:
    trunk = _trunk("stage_c", shapes)
    rows, pooled = shapes["clip_txt_pooled_mapper.weight"]
    return {
        "trunk": trunk,
        "text_width": shapes["clip_txt_mapper.weight"][1],
        "pooled_width": pooled,
        "image_width": shapes["clip_img_mapper.weight"][1],
        "tokens_per_vector": rows // trunk["cond_width"],
    }


def _trunk(role: str, shapes: Shapes) -> Values:
    kinds = [_kinds(shapes, f"down_blocks.{level}") for level in _numbers(shapes, "down_blocks.{}.")]
    ups = [len(_kinds(shapes, f"up_blocks.{level}")) for level in range(len(kinds))]
    layouts = [_unit(letters) for letters in kinds]
    widths = [shapes[f"down_blocks.{level}.0.depthwise.weight"][0] for level in range(len(kinds))]
    attention = next(name for name in shapes if name.endswith("kv_mapper.1.weight"))
    time = next(name for name in shapes if name.endswith(".mapper.weight"))
    block = time.removesuffix("mapper.weight")
    patch = _PATCH[role]
    return {
        "in_channels": shapes["embedding.1.weight"][1] // patch**2,
        "out_channels": shapes["clf.1.weight"][0] // patch**2,
        "patch": patch,
        "cond_width": shapes[attention][1],
        "widths": widths,
        "heads": [width // _HEAD if "A" in layout else 0 for width, layout in zip(widths, layouts, strict=True)],
        "down_depths": [len(letters) // len(unit) for letters, unit in zip(kinds, layouts, strict=True)],
        "up_depths": [blocks // len(unit) for blocks, unit in zip(ups, reversed(layouts), strict=True)],
        "down_repeats": [_repeats(shapes, f"down_repeat_mappers.{level}") for level in range(len(kinds))],
        "up_repeats": [_repeats(shapes, f"up_repeat_mappers.{level}") for level in range(len(kinds))],
        "layouts": layouts,
        "dropout": [0.0] * len(kinds),
        "time_width": shapes[time][1],
        "kernel": shapes["down_blocks.0.0.depthwise.weight"][-1],
        "time_conditions": [name for name in ("sca", "crp") if f"{block}mapper_{name}.weight" in shapes],
        "switch_level": [False] * (len(kinds) - 1) if "down_downscalers.1.1.blocks.0.weight" in shapes else None,
    }


def _stage_a(shapes: Shapes) -> Values:
    levels = len(list(_numbers(shapes, "down_blocks.{}."))) // 2
    width, latent = shapes["up_blocks.0.0.weight"][:2]
    return {
        "levels": levels,
        "bottleneck_depth": len(list(_numbers(shapes, "up_blocks.{}."))) - 1 - 2 * (levels - 1),
        "width": width,
        "latent_channels": latent,
        "codebook_size": shapes["vquantizer.codebook.weight"][0],
    }


def _compressor(shapes: Shapes) -> Values:
    head, last = shapes["mapper.0.weight"][1], list(_numbers(shapes, "backbone.{}."))[-1]
    stages: list[Values] = []
    width = stem = shapes["backbone.0.0.weight"][0]
    for number in range(1, last):
        first = f"backbone.{number}.0.block"
        squeezes = any(name.startswith(first) and ".fc1." in name for name in shapes)
        convolutions = [shapes[name] for name in sorted(shapes) if name.startswith(first) and len(shapes[name]) == 4]
        out = convolutions[-1][0]
        stages.append(
            {
                "kind": "mb" if squeezes else "fused",
                "expand": convolutions[0][0] // width if squeezes or len(convolutions) > 1 else 1,
                "kernel": max(shape[-1] for shape in convolutions),
                "in_channels": width,
                "out_channels": out,
                "depth": len(list(_numbers(shapes, f"backbone.{number}.{{}}."))),
            }
        )
        width = out
    return {"stem": stem, "stages": stages, "head": head, "latent_channels": shapes["mapper.0.weight"][0]}


def _previewer(shapes: Shapes) -> Values:
    first, latent = shapes["blocks.0.weight"][:2]
    numbers = [number for number in range(0, 10**4, 3) if f"blocks.{number}.weight" in shapes]
    doubled = [shapes[f"blocks.{number}.weight"][1] for number in numbers[2:-1:2]]
    return {
        "latent_channels": latent,
        "widths": [first, *doubled],
        "patch": round((shapes[f"blocks.{numbers[-1]}.weight"][0] / 3) ** 0.5),
    }


def _tower(shapes: Shapes, model: str, projection: str) -> Values:
    width = shapes[f"{model}.encoder.layers.0.layer_norm1.weight"][0]
    return {
        "width": width,
        "depth": len(list(_numbers(shapes, f"{model}.encoder.layers.{{}}."))),
        "heads": width // _HEAD,
        "projection": shapes[f"{projection}.weight"][0],
        "intermediate": shapes[f"{model}.encoder.layers.0.mlp.fc1.weight"][0],
    }


def _text(shapes: Shapes) -> Values:
    return _tower(shapes, "text_model", "text_projection") | {
        "vocab_size": shapes["text_model.embeddings.token_embedding.weight"][0],
        "positions": shapes["text_model.embeddings.position_embedding.weight"][0],
    }


def _image(shapes: Shapes) -> Values:
    _, channels, _, patch = shapes["vision_model.embeddings.patch_embedding.weight"]
    positions = shapes["vision_model.embeddings.position_embedding.weight"][0]
    side = round((positions - 1) ** 0.5) * patch
    return _tower(shapes, "vision_model", "visual_projection") | {
        "image_size": side,
        "patch": patch,
        "channels": channels,
    }


_DERIVED: Mapping[str, Callable[[Shapes], Values]] = {
    "stage_a": _stage_a,
    "stage_b": _stage_b,
    "stage_c": _stage_c,
    "compressor": _compressor,
    "previewer": _previewer,
    "text": _text,
    "image": _image,
}


def _numbers(shapes: Shapes, pattern: str) -> Iterator[int]:
    """0, 1, ... as long as some name begins with the pattern with that number in it."""
    return takewhile(lambda n: any(name.startswith(pattern.format(n)) for name in shapes), count())


def _kinds(shapes: Shapes, level: str) -> str:
    """The letters of a level's blocks, in order."""
    letters: dict[int, str] = {}
    for name in shapes:
        for ending, letter in _KINDS.items():
            if match := re.fullmatch(rf"{re.escape(level)}\.(\d+)\.{re.escape(ending)}", name):
                letters[int(match[1])] = letter
    return "".join(letters[number] for number in range(len(letters)))


def _unit(letters: str) -> str:
    """The shortest run of letters of which these are a repetition."""
    return next(letters[:n] for n in range(1, len(letters) + 1) if letters[:n] * (len(letters) // n) == letters)


def _repeats(shapes: Shapes, mappers: str) -> int:
    return 1 + len(list(_numbers(shapes, mappers + ".{}.weight")))
