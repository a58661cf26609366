"""Files of adapters on their own: what one is, another format, into a file of weights, out of two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from littlecascade.adapters import merge as merging
from littlecascade.adapters.deltas import Delta
from littlecascade.adapters.files import Adapter, Content, save
from littlecascade.adapters.injection import Layer
from littlecascade.adapters.parts import Parts
from littlecascade.adapters.sites import OFFICIAL
from littlecascade.checkpoint.convert import Source, convert
from littlecascade.checkpoint.recognise import Part
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError
from littlecascade.models.config import to_dict
from littlecascade.pipelines.adapting import ADAPTED, fits, outline, outlines, preset_outlines
from littlecascade.pipelines.inventory import describe, parts_of, sizes
from littlecascade.pipelines.model import Model, config_of
from littlecascade.presets import PRESETS


class _Home(NamedTuple):
    """What an adapter belongs to: networks by role, and the model, which is looked for when it is asked for."""

    networks: Mapping[str, nn.Module]
    model: Callable[[], Model]

    def tokenizer(self) -> ClipTokenizer:
        return ClipTokenizer.load(self.model().text().folder)


def describe_adapter(adapter: Adapter, model: str | None = None) -> dict[str, str]:
    """What `show` says of an adapter, by name. model: that it is for, if that has no named size."""
    home = _home(adapter, model)
    deltas = adapter.read_deltas(home.networks)
    pieces = [piece for own in deltas.values() for delta in own.by_site.values() for piece in _pieces(delta)]
    networks = [] if model else [f"{role} of {size}" for size, role in fits(adapter)]
    facts = {
        "file": f"{adapter.path} ({adapter.path.stat().st_size / 1e6:,.1f} MB)",
        "format": adapter.form,
        "kind": ", ".join(sorted({piece.kind for piece in pieces})),
        "rank": ", ".join(map(str, sorted({piece.rank for piece in pieces}))),
        "alpha": ", ".join(f"{alpha:g}" for alpha in sorted({piece.alpha for piece in pieces})),
        "modules": ", ".join(f"{len(own)} of {role}" for role, own in deltas.items()),
        "fits": ", ".join(networks) or (f"the model {model}" if deltas else ""),
        "tokens": _tokens_of(adapter, home),
        "digest": adapter.digest,
    }
    return {name: text for name, text in facts.items() if text}


def convert_adapter(
    adapter: Adapter,
    target: Path,
    form: str,
    *,
    model: str | None = None,
    with_tokens: bool = True,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write an adapter in another format, and return the file.

    model: that it is for, if that has no named size. Raises `InputError` if the target exists, and for what the format
    has no place for.
    """
    if target.exists():
        raise InputError(f"{target} exists already: name another place, or remove it first.")
    home = _home(adapter, model)
    tokens = adapter.read_tokens(home.tokenizer) if with_tokens else None
    if tokens is not None and tokens.start is None and form != "official":
        weights = home.model().text()
        tokens.settle(home.tokenizer(), weights.part.tensors()["text_model.embeddings.token_embedding.weight"])
    tokenizer = home.tokenizer() if tokens is not None and form == "official" else None
    content = Content(adapter.read_deltas(home.networks), tokens)
    return save(target, form, content, home.networks, tokenizer, dtype=dtype)


def merge_adapters(source: Path, adapters: Sequence[Adapter], target: Path) -> list[str]:
    """Write a file of weights with adapters in it, in its own format, and return what was left out.

    Raises `InputError` if the target exists, for an adapter that does not fit, changes nothing in the file, or works in
    some of the steps only.
    """
    if target.exists():
        raise InputError(f"{target} exists already: name another place, or remove it first.")
    parts = {part.role: part for part in parts_of(source)}
    own = {role: outline(role, config_of(part)) for role, part in parts.items() if role in ADAPTED}
    alike = [size for part in parts.values() if part.role in ADAPTED for size in sizes(part)]
    networks = {**(preset_outlines(alike[0]) if alike else {}), **own}
    layers: dict[str, list[Layer]] = {role: [] for role in own}
    remarks: list[str] = []
    for adapter in adapters:
        if adapter.steps != (0.0, 1.0):
            raise InputError(f"{adapter.path}: what is merged works in all steps; leave the range out.")
        deltas = adapter.read_deltas(networks)
        if not deltas.keys() & own.keys():
            raise InputError(f"{adapter.path} changes {', '.join(deltas) or 'no network'}, which is not in {source}.")
        for role, changes in deltas.items():
            if role in own:
                layers[role].append(Layer(changes, adapter.scale))
            else:
                remarks.append(f"{adapter.path} also changes {role}, which is not in {source}")
        if adapter.token_width is not None:
            remarks.append(f"the learned tokens of {adapter.path} stay in that file")
    sources = [_source(part, own.get(role), layers.get(role, ())) for role, part in parts.items()]
    convert(sources, target, next(iter(parts.values())).format)
    return remarks


def extract_adapter(
    base: Path, tuned: Path, target: Path, form: str, *, rank: int, filters: Iterable[str] = OFFICIAL
) -> float:
    """Write the LoRA of a rank that is nearest to the difference of two files of weights of one network.

    Returns the share of the squared difference that it holds. Raises `InputError` for files of different networks, and
    if the target exists.
    """
    if target.exists():
        raise InputError(f"{target} exists already: name another place, or remove it first.")
    one, other = ({part.role: part for part in parts_of(path) if part.role in ADAPTED} for path in (base, tuned))
    shared = [role for role in ADAPTED if role in one and role in other]
    if not shared or any(one[shared[0]].outline[name].shape != t.shape for name, t in other[shared[0]].outline.items()):
        held = " and ".join(", ".join(describe(part) for part in parts.values()) or "none" for parts in (one, other))
        raise InputError(f"{base} and {tuned} are not of one network that adapters change: they are {held}.")
    role = shared[0]
    network = outline(role, config_of(one[role]))
    deltas, kept = merging.extract(one[role].tensors(), other[role].tensors(), network, rank, filters)
    save(target, form, Content({role: deltas}), {role: network})
    return kept


def _home(adapter: Adapter, name: str | None) -> _Home:
    if name is not None:
        model = Model.find(name)
        return _Home(outlines(model), lambda: model)
    fitting = fits(adapter)
    if not fitting:
        networks = {role: network for size in PRESETS for role, network in preset_outlines(size).items()}
        try:
            adapter.read_deltas(networks)  # tokens alone fit every size
        except InputError as error:
            raise InputError(
                f"{adapter.path} fits no network of a named size ({', '.join(PRESETS)}); --model names another. For "
                f"the last of them: {error}"
            ) from None
    size = fitting[0][0] if fitting else _size_of_tokens(adapter)
    return _Home(preset_outlines(size), lambda: Model.find(size))


def _size_of_tokens(adapter: Adapter) -> str:
    """The named size whose text tower has vectors of the width of an adapter's tokens."""
    width = adapter.token_width
    found = [size for size, preset in PRESETS.items() if preset.text.width == width]
    if not found:
        raise InputError(f"{adapter.path} has tokens of {width} values, as no text tower of a named size has.")
    return found[0]


def _pieces(delta: Delta) -> list[Delta]:
    return [part for part in delta.deltas if part is not None] if isinstance(delta, Parts) else [delta]


def _tokens_of(adapter: Adapter, home: _Home) -> str:
    if adapter.token_width is None:
        return ""
    try:
        tokens = adapter.read_tokens(home.tokenizer)
    except InputError:
        return "some, whose names are not in the file"
    rows = () if tokens is None else tokens.rows
    said = (
        [f"{name} ({number} vectors)" if number > 1 else name for name, number in tokens.new.items()] if tokens else []
    )
    return ", ".join([*said, *(f"{row.name} (of the vocabulary)" for row in rows if row.id is not None)])


def _source(part: Part, network: nn.Module | None, layers: Iterable[Layer]) -> Source:
    tensors = part.tensors() if network is None else merging.merge(part.tensors(), network, layers)
    return Source(part.role, to_dict(config_of(part)), tensors, part.outline, part.notes)
