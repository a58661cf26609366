"""Learned tokens: new words for the text tower, and changes of those that it has. The rest of its table stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from littlecascade.adapters.hooks import Hooks
from littlecascade.conditioning.clip import TextTower
from littlecascade.conditioning.tokenizer import WORD_END, ClipTokenizer
from littlecascade.errors import InputError

TrainTokens = Iterable[tuple[str, str | None]]
"""Pairs as the official `train_tokens` has them: `('[fernando]', '^dog</w>')`, `('^snail', None)`."""

_LISTED = 8


def is_new(text: str) -> bool:
    """Whether the first of a pair names a new token; otherwise it is an expression for tokens of the vocabulary.

    >>> is_new("[fernando]"), is_new("<cat>"), is_new("^snail")
    (True, True, False)
    """
    return len(text) > 2 and (text[0], text[-1]) in (("[", "]"), ("<", ">"))


@dataclass(frozen=True)
class Row:
    """One learned vector.

    name: that of a new token, several rows of one name following each other, or the vocabulary's. id: in the
    vocabulary, None for a new token. like: the expression for the tokens whose mean a new one starts from.
    """

    name: str
    id: int | None = None
    like: str | None = None


class LearnedTokens(nn.Module):
    """The vectors of some tokens: what they start from, and a change (n, width) that is trained and starts at zero.

    A new token starts from `start`, the mean of some vectors of the table, zeros or a stored vector; one of the
    vocabulary from its own vector.
    """

    start: Tensor | None

    def __init__(self, rows: Sequence[Row], change: Tensor, start: Tensor | None) -> None:
        """change, start: (n, width). start: None if it is still to be taken from a tower, by `settle`."""
        super().__init__()
        self.rows = tuple(rows)
        self.change = nn.Parameter(change)
        self.register_buffer("start", start)

    @classmethod
    def create(cls, pairs: TrainTokens, tokenizer: ClipTokenizer, tower: TextTower) -> Self:
        """Tokens to be trained, which at first are what they start from, in float32 on the tower's device.

        Raises `InputError` for an expression that matches no token, a name that is taken, and a pair without sense.
        """
        rows = resolve(pairs, tokenizer)
        table = _table(tower).weight
        change = torch.zeros(len(rows), table.shape[1], device=table.device)
        return cls(rows, change, starts(rows, tokenizer, table))

    def settle(self, tokenizer: ClipTokenizer, table: Tensor) -> None:
        """Take from a text tower's table (tokens, width) what new tokens start from, if it is not known."""
        if self.start is None:
            self.start = starts(self.rows, tokenizer, table).to(self.change.device)

    def check(self, width: int) -> None:
        """Raise `InputError` unless their vectors are as wide as those of a text tower."""
        if self.change.shape[1] != width:
            raise InputError(
                f"The adapter's tokens have {self.change.shape[1]} values, and those of this text tower {width}: they "
                "are of another model."
            )

    @property
    def new(self) -> dict[str, int]:
        """How many vectors each new token has."""
        names = [row.name for row in self.rows if row.id is None]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def vectors(self, name: str) -> Tensor:
        """All vectors (n, width) of a new token, float32."""
        places = [place for place, row in enumerate(self.rows) if row.id is None and row.name == name]
        return self.settled[places].float() + self.change.detach()[places].float()

    @property
    def settled(self) -> Tensor:
        """`start`. Raises `InputError` if it is not known."""
        if self.start is None:
            raise InputError(
                "What these tokens start from is in the text tower that they were trained with: name its model."
            )
        return self.start


def resolve(pairs: TrainTokens, tokenizer: ClipTokenizer) -> list[Row]:
    """The rows of some pairs, each token once. Raises `InputError` as `LearnedTokens.create` says."""
    rows: dict[str, Row] = {}
    for first, like in pairs:
        if not is_new(first):
            if like is not None:
                raise InputError(
                    f"train_tokens: {first!r} has a start, {like!r}, but is not new. A new token's name stands in "
                    "square or angle brackets: '[name]'."
                )
            rows |= {name: Row(name, tokenizer.vocabulary[name]) for name in matching(first, tokenizer)}
            continue
        if first in rows or first in tokenizer.vocabulary:
            raise InputError(f"train_tokens: there is a token {first!r} already; give the new one another name.")
        if like is not None:
            matching(like, tokenizer)
        rows[first] = Row(first, None, like)
    if not rows:
        raise InputError("train_tokens names no token: give pairs such as ['[fernando]', '^dog</w>'].")
    return list(rows.values())


def matching(expression: str, tokenizer: ClipTokenizer) -> list[str]:
    """The tokens of the vocabulary in which the expression is found. Raises `InputError` if there are none."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"{expression!r} is no regular expression for tokens: {error}.") from None
    found = [token for token in tokenizer.vocabulary if pattern.search(token)]
    if not found:
        raise InputError(
            f"No token of the vocabulary matches {expression!r}. There are {', '.join(_near(expression, tokenizer))}, "
            f"and others; a token that ends a word ends in {WORD_END}."
        )
    return found


def starts(rows: Sequence[Row], tokenizer: ClipTokenizer, table: Tensor) -> Tensor:
    """What each row starts from, (n, width) in float32; zeros for tokens of the vocabulary, whose vector is there."""
    start = torch.zeros(len(rows), table.shape[1], device=table.device)
    for place, row in enumerate(rows):
        if row.like is not None:
            ids = [tokenizer.vocabulary[token] for token in matching(row.like, tokenizer)]
            start[place] = table.detach()[ids].float().mean(dim=0)
    return start


class TokenInjection(Hooks):
    """Puts learned tokens into a text tower until `remove`, or the end of a `with`.

    The table keeps its size and values. names: the ids by which the tower now knows the new tokens, for
    `ClipTokenizer.extended`.
    """

    def __init__(self, tower: TextTower, layers: Sequence[LearnedTokens]) -> None:
        """Raises `InputError` for a token that two layers add, and vectors of another width."""
        table = _table(tower)
        self.names = new_ids([layer.new for layer in layers], table.num_embeddings)
        self._size, self._ids = table.num_embeddings, torch.empty(0)
        self._layers = [self._place(layer, table.embedding_dim) for layer in layers]
        super().__init__([table.register_forward_pre_hook(self._before), table.register_forward_hook(self._after)])

    def _place(self, layer: LearnedTokens, width: int) -> _Placed:
        layer.check(width)
        free = {name: iter(ids) for name, ids in self.names.items()}
        device = layer.change.device
        ids = [next(free[row.name]) if row.id is None else row.id for row in layer.rows]
        slots = torch.full((max(ids) + 1,), -1, device=device)
        slots[ids] = torch.arange(len(ids), device=device)
        return _Placed(layer, slots, torch.tensor([row.id is None for row in layer.rows], device=device)[:, None])

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        (self._ids,) = args
        return (self._ids.clamp(max=self._size - 1),)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for layer, slots, new in self._layers:
            slot = torch.where(self._ids < len(slots), slots[self._ids.clamp(max=len(slots) - 1)], -1)
            at = slot.clamp(min=0)
            start = torch.where(new[at], layer.settled[at].to(output.dtype), output)
            output = torch.where((slot >= 0)[..., None], start + layer.change[at].to(output.dtype), output)
        return output


class _Placed(NamedTuple):
    """slots: (ids,), the row of each id or -1. new: (n, 1), whether a row is of a new token."""

    layer: LearnedTokens
    slots: Tensor
    new: Tensor


def new_ids(layers: Sequence[Mapping[str, int]], first: int) -> dict[str, list[int]]:
    """Ids, from `first` on, for new tokens of so many vectors. Raises `InputError` for a name that occurs twice."""
    names: dict[str, list[int]] = {}
    for layer in layers:
        for name, count in layer.items():
            if name.lower() in (other.lower() for other in names):
                raise InputError(f"Two adapters bring a token {name!r}: draw with one of them at a time.")
            names[name] = list(range(first, first + count))
            first += count
    return names


def _table(tower: TextTower) -> nn.Embedding:
    return tower.text_model.embeddings.token_embedding


def _near(expression: str, tokenizer: ClipTokenizer) -> list[str]:
    """Tokens that begin as the letters of an expression do, as far as any does."""
    letters = re.sub(r"\W", "", expression.replace(WORD_END, ""))
    for length in range(len(letters), -1, -1):
        found = [token for token in tokenizer.vocabulary if token.startswith(letters[:length])]
        if found:
            return sorted(found, key=len)[:_LISTED]
    return []
