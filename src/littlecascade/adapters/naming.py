"""The formats of adapter files that name their matrices: OneTrainer's, kohya's, ComfyUI's and PEFT's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from littlecascade.adapters.deltas import FUSED, Delta, DoRA, LoHa, LoKr, LoRA
from littlecascade.adapters.injection import Deltas, check
from littlecascade.adapters.parts import Parts, fused
from littlecascade.adapters.sites import Site, sites
from littlecascade.checkpoint.formats import FORMATS
from littlecascade.errors import InputError


@dataclass(frozen=True)
class NamedFormat:
    """How a format names what belongs to a matrix: a beginning, the name, an ending such as `.lora_up.weight`.

    stage, text: the beginnings for Stage B or C and for the text tower; None where it has no place for that. flat:
    whether dots in names become underscores. diffusers: whether names are those of diffusers' networks, not official
    ones. kinds: of adapters, that it can hold.
    """

    stage: str
    text: str | None
    flat: bool = False
    diffusers: bool = False
    kinds: tuple[str, ...] = ("lora", "dora", "loha", "lokr")


NAMED: Mapping[str, NamedFormat] = {
    "onetrainer": NamedFormat("lora_prior_unet_", "lora_prior_te_", flat=True),
    "kohya": NamedFormat("lora_unet_", "lora_te_", flat=True),
    "comfy": NamedFormat("diffusion_model.", "text_encoders.clip_g.transformer."),
    "peft": NamedFormat("base_model.model.", None, diffusers=True, kinds=("lora", "dora")),
}

_STAGE_STARTS = tuple([naming.stage for naming in NAMED.values()] + ["unet.", "prior."])
_TEXT_STARTS = tuple([naming.text for naming in NAMED.values() if naming.text] + ["text_encoder.", "lora_te2_"])
"""Beginnings that are read: those above, and diffusers' own."""

_ENDINGS = {
    "lora_up.weight": "up",
    "lora_down.weight": "down",
    "lora_B.weight": "up",
    "lora_A.weight": "down",
    "lora.up.weight": "up",
    "lora.down.weight": "down",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "alpha": "alpha",
    **{ending: name for name, ending in LoHa.FACTORS.items()},
    **{ending: name for name, ending in LoKr.FACTORS.items()},
}
"""What may stand behind a name, and the factor that it is."""

_ENDING = re.compile(rf"(.+)\.({'|'.join(sorted(map(re.escape, _ENDINGS), key=len, reverse=True))})")
_PEFT = {"lora_up.weight": "lora_B.weight", "lora_down.weight": "lora_A.weight", "dora_scale": "lora_magnitude_vector"}


class Place(NamedTuple):
    """A matrix of a network, or one of the three in a fused one."""

    site: Site
    third: int | None = None


def form_of(names: Collection[str]) -> str | None:
    """The format whose beginnings these names have, None for none."""
    for name in names:
        for form, naming in NAMED.items():
            if name.startswith((naming.stage, naming.text or naming.stage)):
                return form
    return "peft" if any(name.startswith((*_STAGE_STARTS, *_TEXT_STARTS)) for name in names) else None


def decode(
    tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], alpha: Callable[[str], float | None]
) -> dict[str, Deltas]:
    """The changes in a file of a named format, by the role of their network.

    networks: those that it may fit, by role, on any device. alpha: of a name, where the file has none beside it.
    Raises `InputError` for a file that fits none of them, with what is in the way, and for names and endings that
    nobody knows.
    """
    deltas = dict(_deltas(tensors, alpha))
    text = {name: delta for name, delta in deltas.items() if name.startswith(_TEXT_STARTS)}
    groups = [(("text",), text), (("stage_c", "stage_b"), {k: v for k, v in deltas.items() if k not in text})]
    found: dict[str, Deltas] = {}
    for roles, group in groups:
        if group:
            role, placed = _fitting(group, {role: networks[role] for role in roles if role in networks}, roles)
            found[role] = Deltas(placed)
    return found


def encode(form: str, deltas: Mapping[str, Deltas], networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Changes, by the role of their network, under the names of a format.

    A fused matrix is cut in three that share what they can. Raises `InputError` for what the format can't hold.
    """
    naming = NAMED[form]
    tensors: dict[str, Tensor] = {}
    if len(deltas.keys() - {"text"}) > 1:
        raise InputError(f"The format {form} holds changes of one stage, not of {' and '.join(deltas)}.")
    for role, own in deltas.items():
        known = sites(networks[role])
        check(own.by_site, known, type(networks[role]).__name__)
        for name, delta in own.by_site.items():
            places = _names(role, known[name], naming)
            for place, part in zip(places, _pieces(delta, len(places)), strict=True):
                if part is not None:
                    tensors |= _tensors(form, naming, place, part)
    return tensors


def _pieces(delta: Delta, count: int) -> list[Delta | None]:
    if count == 1:
        return [fused(delta)]
    return delta.deltas if isinstance(delta, Parts) else [*delta.cut()]


def _tensors(form: str, naming: NamedFormat, name: str, delta: Delta) -> dict[str, Tensor]:
    """The factors of one change as a format has them. PEFT keeps alpha elsewhere, so there it is made the rank."""
    if delta.kind not in naming.kinds:
        raise InputError(f"The format {form} holds {' and '.join(naming.kinds)}, not {delta.kind}.")
    factors = delta.tensors()
    if form != "peft":
        return {f"{name}.{ending}": tensor for ending, tensor in factors.items()} | {
            f"{name}.alpha": torch.tensor(delta.alpha)
        }
    if delta.scale != 1:
        factors["lora_up.weight"] = factors["lora_up.weight"] * delta.scale
    if "dora_scale" in factors:
        if factors["dora_scale"].shape[0] == 1:
            raise InputError("PEFT's DoRA has a length for each row, and this one for each column.")
        factors["dora_scale"] = factors["dora_scale"].flatten()
    return {f"{name}.{_PEFT[ending]}": tensor for ending, tensor in factors.items()}


def _names(role: str, site: Site, naming: NamedFormat) -> list[str]:
    """The name of a matrix in a format, or three of them for a fused one."""
    start = naming.text if role == "text" else naming.stage
    if start is None:
        raise InputError("This format has no place for changes of the text tower: convert to another one.")
    own = _diffusers(role, site) if naming.diffusers else _split(site)
    return [start + (name.replace(".", "_") if naming.flat else name) for name in own]


def _split(site: Site) -> list[str]:
    stem = site.name.removesuffix("in_proj")
    return [f"{stem}to_{letter}" for letter in "qkv"] if site.fused else [site.name]


def _diffusers(role: str, site: Site) -> list[str]:
    names = FORMATS["diffusers"].naming(role).encode({site.parameter: torch.empty(0)})
    return [name.removesuffix(".weight") for name in names]


def _table(role: str, network: nn.Module) -> dict[str, Place]:
    """Every name, without its beginning, that a matrix of a network goes by."""
    table: dict[str, Place] = {}
    for site in sites(network).values():
        for own in (_split(site), _diffusers(role, site), [site.name]):
            places = [Place(site)] if len(own) == 1 else [Place(site, third) for third in range(FUSED)]
            for name, place in zip(own, places, strict=True):
                table |= {name: place, name.replace(".", "_"): place}
    return table


def _bare(name: str) -> str:
    starts = (start for start in (*_STAGE_STARTS, *_TEXT_STARTS) if name.startswith(start))
    return name.removeprefix(next(starts, ""))


def _fitting(
    group: Mapping[str, Delta], networks: Mapping[str, nn.Module], roles: tuple[str, ...]
) -> tuple[str, dict[str, Delta]]:
    """The first network that has a matrix for each change, and the changes by the site."""
    reasons: list[str] = []
    for role, network in networks.items():
        try:
            return role, _placed(group, role, network)
        except InputError as error:
            reasons.append(str(error))
    raise InputError(" ".join(reasons) or f"It changes {' or '.join(roles)}, which is not there.")


def _placed(group: Mapping[str, Delta], role: str, network: nn.Module) -> dict[str, Delta]:
    table, name_of = _table(role, network), type(network).__name__
    strange = [name for name in group if _bare(name) not in table]
    if strange:
        raise InputError(f"{name_of} has no {strange[0]} ({len(strange)} of {len(group)} names are unknown).")
    whole: dict[str, Delta] = {}
    thirds: dict[str, list[Delta | None]] = defaultdict(lambda: [None] * FUSED)
    for name, delta in group.items():
        site, third = table[_bare(name)]
        if third is None:
            whole[site.name] = delta
            continue
        rows, columns = site.shape
        if delta.shape != (rows // FUSED, columns):
            raise InputError(f"{name} changes {delta.shape}, and {name_of} has {(rows // FUSED, columns)} there.")
        thirds[site.name][third] = delta
    placed = whole | {name: Parts(parts) for name, parts in thirds.items()}
    check(placed, sites(network), name_of)
    return placed


def _deltas(tensors: Mapping[str, Tensor], alpha: Callable[[str], float | None]) -> Iterator[tuple[str, Delta]]:
    """Each change in a file, by the name before its tensors' endings."""
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        match = _ENDING.fullmatch(key)
        if match is None:
            raise InputError(f"{key} is no tensor of a LoRA, DoRA, LoHa or LoKr that is known here.")
        groups[match[1]][_ENDINGS[match[2]]] = tensor
    for name, factors in groups.items():
        scale = factors.pop("alpha", None)
        yield name, _delta(name, factors, alpha(name) if scale is None else float(scale))


def _delta(name: str, factors: dict[str, Tensor], alpha: float | None) -> Delta:
    """The change that some factors are of. A 1x1 convolution's lose the axes of its kernel."""
    given = set(factors)
    flat = {key: tensor.flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1) for key, tensor in factors.items()}
    if given == {"up", "down"}:
        return LoRA(flat["up"], flat["down"], alpha)
    if given == {"up", "down", "magnitude"}:
        return DoRA(flat["up"], flat["down"], flat["magnitude"], alpha)
    if given == set(LoHa.FACTORS):
        return LoHa(*(flat[key] for key in LoHa.FACTORS), alpha=alpha)
    if given <= set(LoKr.FACTORS) and all({key} <= given or {f"{key}_a", f"{key}_b"} <= given for key in ("w1", "w2")):
        return LoKr(flat, alpha)
    raise InputError(f"{name} has {', '.join(sorted(given)) or 'no factors'}, which is none of LoRA, DoRA, LoHa, LoKr.")
