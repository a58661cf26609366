"""Prompts to the hidden states and the pooled vector that the cascade's stages read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from littlecascade.checkpoint import assign, files
from littlecascade.conditioning import folder as folders
from littlecascade.conditioning.clip import TextConfig, TextTower
from littlecascade.conditioning.prompts import Prompt
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError


class TextEmbedding(NamedTuple):
    """`hidden` `(B, T, width)`: the text tower's last hidden states. `pooled` `(B, 1, projection)`."""

    hidden: Tensor
    pooled: Tensor


_Embedded = dict[tuple[int, ...], tuple[Tensor, Tensor]]
"""Hidden states `(tokens, width)` and pooled vector `(projection,)` by the token ids of a chunk."""


class _Piece(NamedTuple):
    """The token ids of one chunk, and the weight of each, or no weights where all are 1."""

    ids: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


class TextEncoder:
    """A CLIP text tower with its tokenizer.

    Prompts are cut, between words, into chunks that have `tokens` tokens each with a beginning, an end and padding:
    always that many, so that what a network sees of a prompt does not depend on its neighbours in a batch. The hidden
    states of a prompt's chunks follow each other, and its pooled vector is the mean of theirs.

    `tokens`: None takes all positions of the tower (77 in the official release). A cascade with few latents spends
    less on fewer; it draws with as many as it was trained with, so `save` notes the number.
    `mask_padding` hides padding from padding, as the official release and diffusers do; without it (as some other
    tools do) the hidden states of the padding differ, and nothing else.
    The last `cache_size` chunks are kept, so that the empty prompt and repeated ones cost nothing.

    A word's weight w (see `Prompt`) takes its tokens' hidden states along the line from the empty prompt's, at the same
    place, through their own: empty + w (own - empty). So 1 changes nothing, 0 says nothing and more says more. Places
    that speak for the whole chunk (its end, the padding, the pooled vector) take the mean weight of its tokens. A token
    has the weight of its first sign.
    """

    def __init__(
        self,
        tower: TextTower,
        tokenizer: ClipTokenizer,
        *,
        tokens: int | None = None,
        mask_padding: bool = True,
        cache_size: int = 256,
    ) -> None:
        positions = tower.config.positions
        if len(tokenizer.vocabulary) > tower.config.vocab_size:
            raise InputError(
                f"This tokenizer knows {len(tokenizer.vocabulary)} tokens and the text tower "
                f"{tower.config.vocab_size}: they are of different models."
            )
        if tokens is not None and not 3 <= tokens <= positions:
            raise InputError(f"A chunk of {tokens} tokens: it takes 3 to {positions}, the positions of the text tower.")
        self.tower = tower
        self.tokenizer = tokenizer
        self.tokens = positions if tokens is None else tokens
        self.mask_padding = mask_padding
        self.cache_size = cache_size
        self._cache: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        *,
        mask_padding: bool = True,
    ) -> Self:
        """Reads a folder that transformers saved, of a text tower or of a whole CLIP model, with its tokenizer.

        `dtype` None keeps the precision of the file.

        Raises:
            InputError: a file is missing or can't be read, or weights and configuration do not fit.
        """
        folder = Path(folder)
        description = folders.read_json(folder / folders.CONFIG)
        config = TextConfig.from_transformers(description)
        tensors = folders.read_tensors(folder, ("text_model.", "text_projection."))
        tower = assign.build(lambda: TextTower(config), tensors, dtype=dtype, device=device, source=str(folder))
        return cls(tower, ClipTokenizer.load(folder), tokens=description.get("tokens"), mask_padding=mask_padding)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that `load` and transformers' CLIPTextModelWithProjection and CLIPTokenizer read.

        `dtype` None stores the weights in the precision that they have.
        """
        folder = Path(folder)
        folders.write_json(folder / folders.CONFIG, self.tower.config.to_transformers() | {"tokens": self.tokens})
        self.tokenizer.save(folder)
        tensors = {name: tensor.to(dtype) for name, tensor in self.tower.state_dict().items()}
        files.save(folder / folders.WEIGHTS, tensors, {"format": "pt"})

    @property
    def length(self) -> int:
        """Tokens of a prompt that fit into one chunk, between its beginning and its end."""
        return self.tokens - 2

    def chunks(self, prompt: str | Prompt) -> int:
        """Number of chunks that a prompt needs: 1 unless it has more than `length` tokens."""
        return len(self._cut(prompt))

    def encode(self, prompts: Sequence[str | Prompt], chunks: int | None = None, batch_size: int = 32) -> TextEmbedding:
        """Embeds prompts; T is `chunks * tokens`. A string is taken as it stands: `Prompt.parse` reads weights.

        `chunks`: how many each prompt is brought to. None takes what the prompts need, which must be the same for
        all: filling up the shorter ones would let a picture depend on its neighbours' prompts, so draw them in groups.
        A number fills shorter prompts up with empty chunks (as for the negative beside a long prompt) and cuts longer
        ones (as for captions in training, where every sample has the same shape). `batch_size` counts chunks.

        Raises:
            InputError: there are no prompts, or `chunks` is None and they need different numbers of chunks.
        """
        if isinstance(prompts, str) or not prompts:
            raise InputError("TextEncoder.encode takes a list of at least one prompt, such as ['a red apple'].")
        own = [self._cut(prompt) for prompt in prompts]
        counts = sorted({len(pieces) for pieces in own})
        if chunks is None and len(counts) > 1:
            raise InputError(
                f"These prompts need {', '.join(map(str, counts))} chunks of {self.length} tokens. Encode those of one "
                "length together, or name the number of chunks to fill up or cut to."
            )
        count = chunks or counts[0]
        own = [pieces[:count] for pieces in own]
        filled = [pieces + [_Piece()] * (count - len(pieces)) for pieces in own]
        wanted = [piece.ids for pieces in filled for piece in pieces]
        empty = [()] if any(piece.weights for pieces in own for piece in pieces) else []
        known = self._embed(wanted + empty, batch_size)
        hidden = torch.stack([torch.cat([self._hidden(piece, known) for piece in pieces]) for pieces in filled])
        pooled = torch.stack([torch.stack([self._pooled(piece, known) for piece in pieces]).mean(0) for pieces in own])
        return TextEmbedding(hidden, pooled.unsqueeze(1))

    def clear(self) -> None:
        """Frees the cached embeddings; they also have to go when the tower's weights change."""
        self._cache.clear()

    def _cut(self, prompt: str | Prompt) -> list[_Piece]:
        """A prompt's chunks."""
        prompt = Prompt.plain(prompt) if isinstance(prompt, str) else prompt
        ids = [tuple(chunk) for chunk in self.tokenizer.chunks(prompt.text, self.length)]
        if not prompt.weighted:
            return [_Piece(chunk) for chunk in ids]
        weights = iter([prompt.weights[start] for start in self.tokenizer.starts(prompt.text)])
        pieces = [_Piece(chunk, tuple(islice(weights, len(chunk)))) for chunk in ids]
        return [piece if any(weight != 1 for weight in piece.weights) else _Piece(piece.ids) for piece in pieces]

    def _hidden(self, piece: _Piece, known: _Embedded) -> Tensor:
        """Hidden states `(tokens, width)` of a chunk, weighted."""
        if not piece.weights:
            return known[piece.ids][0]
        weights = torch.full((self.tokens, 1), _mean(piece.weights))
        weights[1 : len(piece.ids) + 1, 0] = torch.tensor(piece.weights)
        return _along(known[()][0], known[piece.ids][0], weights)

    def _pooled(self, piece: _Piece, known: _Embedded) -> Tensor:
        """Pooled vector `(projection,)` of a chunk, weighted."""
        if not piece.weights:
            return known[piece.ids][1]
        return _along(known[()][1], known[piece.ids][1], torch.tensor(_mean(piece.weights)))

    @torch.no_grad()
    def _embed(self, pieces: Sequence[tuple[int, ...]], batch_size: int) -> _Embedded:
        """Hidden states `(tokens, width)` and pooled vector `(projection,)` of each distinct chunk."""
        weight = self.tower.text_projection.weight
        distinct = list(dict.fromkeys(pieces))
        known = {piece: self._cache[piece] for piece in distinct if piece in self._cache}
        missing = [piece for piece in distinct if piece not in known]
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            ids, mask = self.tokenizer.collate(batch, self.tokens)
            padding = mask.to(weight.device) if self.mask_padding else None
            hidden, pooled = self.tower(ids.to(weight.device), padding)
            known |= {piece: (hidden[row].clone(), pooled[row].clone()) for row, piece in enumerate(batch)}
        for piece in distinct:
            self._cache[piece] = known[piece]
            self._cache.move_to_end(piece)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return known


def _mean(weights: Sequence[float]) -> float:
    return sum(weights) / len(weights)


def _along(empty: Tensor, own: Tensor, weights: Tensor) -> Tensor:
    """`empty + weights (own - empty)`, computed in float32; exactly `own` at 1 and `empty` at 0."""
    return torch.lerp(empty.float(), own.float(), weights.to(own.device)).to(own.dtype)
