"""The official format: `weights.{i}.lora_down|lora_up` in the order of the modules, without their names.

Up times down is scaled by 1 / rank there, and the rank is the same everywhere. Learned tokens are changes of the
vectors with the numbers in `embeddings.indices`; new tokens have the numbers after the vocabulary's. What the file does
not say is in the run's configuration (`module_filters`, `train_tokens`), and in our files in their metadata, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import count, takewhile

import torch
from torch import Tensor, nn

from littlecascade.adapters.deltas import Delta, LoRA
from littlecascade.adapters.injection import Deltas, check
from littlecascade.adapters.parts import fused
from littlecascade.adapters.sites import OFFICIAL, select, sites
from littlecascade.adapters.tokens import LearnedTokens, Row, TrainTokens, resolve
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError

_NAME = re.compile(r"weights\.(\d+)\.lora_(down|up)|embeddings\.(embeddings|indices)")


def fits(names: Iterable[str]) -> bool:
    """Whether all names are of this format."""
    names = list(names)
    return bool(names) and all(_NAME.fullmatch(name) for name in names)


def decode(
    tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], filters: Iterable[str] | None
) -> dict[str, Deltas]:
    """The changes in a file, by the role of the first network that they fit.

    filters: the `module_filters` with which it was trained, or the full names of the sites; None takes the official
    ones. Raises `InputError` for a file that fits none.
    """
    loras = [
        LoRA(tensors[f"weights.{i}.lora_up"].flatten(1), tensors[f"weights.{i}.lora_down"].flatten(1), 1.0)
        for i in takewhile(lambda i: f"weights.{i}.lora_up" in tensors, count())
    ]
    if not loras:
        return {}
    reasons: list[str] = []
    for role in ("stage_c", "stage_b", "text"):
        if role in networks:
            try:
                return {role: Deltas(_placed(loras, networks[role], OFFICIAL if filters is None else filters))}
            except InputError as error:
                reasons.append(str(error))
    raise InputError(" ".join(reasons))


def _placed(loras: list[LoRA], network: nn.Module, filters: Iterable[str]) -> dict[str, Delta]:
    chosen = select(network, filters)
    if len(chosen) != len(loras):
        raise InputError(
            f"{type(network).__name__} has {len(chosen)} modules with {' or '.join(filters)} in their names, and the "
            f"file {len(loras)} layers."
        )
    placed: dict[str, Delta] = dict(zip(chosen, loras, strict=True))
    check(placed, chosen, type(network).__name__)
    return placed


def encode(
    deltas: Mapping[str, Deltas], networks: Mapping[str, nn.Module]
) -> tuple[dict[str, Tensor], list[str] | None]:
    """Changes of one network, by its role, and the filters that choose these modules; None for the official ones.

    Where all are sites that the official filters choose, the rest of these get changes of zero, so that the official
    code can load it. Raises `InputError` for changes of several networks, and those that are no LoRA.
    """
    if len(deltas) > 1:
        raise InputError(f"The official format holds changes of one network, not of {' and '.join(deltas)}.")
    tensors: dict[str, Tensor] = {}
    filters: list[str] | None = None
    for role, own in deltas.items():
        known = sites(networks[role])
        check(own.by_site, known, type(networks[role]).__name__)
        loras = {name: _lora(name, delta) for name, delta in own.by_site.items()}
        if all(any(text in name for text in OFFICIAL) for name in loras):
            known = select(networks[role], OFFICIAL)
        else:
            filters = [f"re:^({'|'.join(map(re.escape, loras))})$"]
            known = {name: site for name, site in known.items() if name in loras}
        rank = max(lora.rank for lora in loras.values())
        like = next(iter(loras.values())).up
        for i, (name, site) in enumerate(known.items()):
            up, down = like.new_zeros(site.shape[0], rank), like.new_zeros(rank, site.shape[1])
            if lora := loras.get(name):
                up[:, : lora.rank] = lora.up.detach() * (lora.scale * rank)
                down[: lora.rank] = lora.down.detach()
            tensors |= {f"weights.{i}.lora_down": down, f"weights.{i}.lora_up": up}
    return tensors, filters


def _lora(name: str, delta: Delta) -> LoRA:
    whole = fused(delta)
    if type(whole) is not LoRA:
        raise InputError(f"The official format holds LoRAs only, and {name} has a {whole.kind}.")
    return whole


def decode_tokens(
    tensors: Mapping[str, Tensor], pairs: TrainTokens | None, tokenizers: Callable[[], ClipTokenizer]
) -> LearnedTokens | None:
    """The tokens in a file. pairs: the `train_tokens` with which it was trained; needed if there are new ones.
    tokenizers: is called if the file has tokens.

    Raises `InputError` if they are needed and not there, or are of other tokens.
    """
    if "embeddings.indices" not in tensors:
        return None
    tokenizer = tokenizers()
    indices = [int(index) for index in tensors["embeddings.indices"]]
    names = {number: name for name, number in tokenizer.vocabulary.items()}
    rows = [] if pairs is None else resolve(pairs, tokenizer)
    new = dict(enumerate((row for row in rows if row.id is None), start=len(names)))
    unknown = [index for index in indices if index not in names and index not in new]
    if unknown or any(number not in indices for number in new):
        raise InputError(
            f"Its {len(unknown) or len(indices)} tokens have numbers, and no names that go with them. Name those that "
            "it was trained with, as its configuration's train_tokens does: tokens=[('[fernando]', '^dog</w>')] in "
            "Python, --token '[fernando]=^dog</w>' of 'littlecascade lora convert'."
        )
    learned = [new[index] if index in new else Row(names[index], index) for index in indices]
    return LearnedTokens(learned, tensors["embeddings.embeddings"], None)


def encode_tokens(tokens: LearnedTokens, tokenizer: ClipTokenizer) -> tuple[dict[str, Tensor], list[list[str | None]]]:
    """Tokens as the file has them, and the `train_tokens` that go with them.

    A new token that starts from no expression starts from zeros there, so that its change is all of it.
    """
    pairs: list[list[str | None]] = []
    numbers: list[int] = []
    change = tokens.change.detach().clone()
    new = [row for row in tokens.rows if row.id is None]
    for place, row in enumerate(tokens.rows):
        if row.id is not None:
            numbers.append(row.id)
            pairs.append([f"^{re.escape(row.name)}$", None])
            continue
        if new.count(row) > 1:
            raise InputError(f"{row.name} has {new.count(row)} vectors; a token of the official format has one.")
        numbers.append(len(tokenizer.vocabulary) + new.index(row))
        pairs.append([row.name, row.like])
        if row.like is None and tokens.start is not None:
            change[place] += tokens.start[place].to(change)
    return {"embeddings.embeddings": change, "embeddings.indices": torch.tensor(numbers)}, pairs
