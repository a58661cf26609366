"""Attention with `torch.nn.MultiheadAttention`'s parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Module):
    """Some rows of a matrix that belongs to another module: a call of its own, which hooks can reach."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, rows: slice) -> Tensor:
        """x: (..., C). Returns (..., number of rows)."""
        return F.linear(x, weight[rows], bias[rows])


class FusedAttention(nn.Module):
    """Multi-head attention of a sequence over itself and over conditioning tokens of the same width.

    One matrix makes queries, keys and values (`in_proj_weight`: rows for q, then k, then v). The sequence goes through
    all of it at once and the tokens through the last two thirds, so nothing is projected that is not used.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, self_attention: bool = True) -> None:
        """dropout: of attention probabilities. self_attention: False attends over the tokens alone."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.self_attention = self_attention
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.in_proj = Projection()
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x: (B, N, C), tokens: (B, M, C). Returns (B, N, C)."""
        weights, width = (self.in_proj_weight, self.in_proj_bias), x.shape[-1]
        key, value = self.in_proj(tokens, *weights, slice(width, 3 * width)).chunk(2, dim=-1)
        if self.self_attention:
            query, own_key, own_value = self.in_proj(x, *weights, slice(0, 3 * width)).chunk(3, dim=-1)
            key, value = torch.cat([own_key, key], dim=1), torch.cat([own_value, value], dim=1)
        else:
            query = self.in_proj(x, *weights, slice(0, width))
        attended = self._attend(self._split(query), self._split(key), self._split(value))
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """On a CPU in float32: torch's kernel for half precision is no faster there, and its backward pass takes up
        to three times as long (x86, torch 2.13, 16 queries).
        """
        dtype = query.dtype
        if query.device.type == "cpu":
            query, key, value = query.float(), key.float(), value.float()
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).to(dtype)


class SpatialAttention(nn.Module):
    """`FusedAttention` over the positions of a map."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, self_attention: bool = True) -> None:
        super().__init__()
        self.attn = FusedAttention(width, heads, dropout, self_attention)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x: (B, H, W, C), tokens: (B, M, C). Returns (B, H, W, C)."""
        return self.attn(x.flatten(1, 2), tokens).view_as(x)
