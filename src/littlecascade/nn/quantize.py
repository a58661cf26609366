"""Vector quantisation: each vector of a map is replaced by the nearest of a learned codebook.

van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning" (2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

_CHUNK = 8192
"""Vectors whose distances to the whole codebook are held in memory at a time."""


class Quantised(NamedTuple):
    """What a `VectorQuantizer` makes of a map z: (B, C, H, W).

    vectors: (B, C, H, W), the nearest codes e; the gradient goes to z as if there were no quantiser.
    indices: (B, H, W), int64, which codes they are.
    codebook_loss: mean squared ||sg[z] - e||, equation 3's second term, which moves the codes.
    commitment_loss: mean squared ||z - sg[e]||, its third term, before its weight beta; it moves the encoder.
    """

    vectors: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class VectorQuantizer(nn.Module):
    """A codebook of `size` vectors of `width` channels."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(size, width)

    def initialise(self, generator: Generator | None = None) -> None:
        """Draw the codes from a normal distribution of variance one, which is also that of batch-normalised vectors."""
        nn.init.normal_(self.codebook.weight, generator=generator)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Index of the code nearest to each of z: (N, C), computed in float32. Returns (N,)."""
        codes = self.codebook.weight.float()
        squares = codes.square().sum(1)  # ||z - e||^2 = ||z||^2 - 2 ze + ||e||^2, and ||z||^2 is the same for all e
        return torch.cat([torch.addmm(squares, rows, codes.T, alpha=-2).argmin(1) for rows in z.float().split(_CHUNK)])

    def forward(self, z: Tensor) -> Quantised:
        """z: (B, C, H, W). The losses are float32 scalars."""
        rows = z.permute(0, 2, 3, 1)
        indices = self.nearest(rows.flatten(0, 2)).view(rows.shape[:3])
        codes = self.codebook(indices).permute(0, 3, 1, 2)
        vectors = codes.detach() + (z - z.detach())
        codebook_loss = F.mse_loss(codes.float(), z.detach().float())
        commitment_loss = F.mse_loss(z.float(), codes.detach().float())
        return Quantised(vectors, indices, codebook_loss, commitment_loss)
