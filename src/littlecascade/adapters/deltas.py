"""What an adapter adds to one matrix W (out, in), in four parametrisations, as a path beside it.

W + delta is never built, in training or in drawing: each kind is applied to x through its small factors.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from littlecascade.errors import InputError

FUSED = 3
"""Matrices in a fused one: queries, keys, values."""


class Delta(nn.Module):
    """The change of a matrix.

    kind: its name. FACTORS: its parameters, and what LyCORIS, kohya's scripts and ComfyUI call them in files.
    reads_base: whether `forward` looks at `base` and `weight`.
    """

    kind: ClassVar[str]
    FACTORS: ClassVar[Mapping[str, str]]
    reads_base: bool = False

    def __init__(self, alpha: float | None, dropout: float = 0.0) -> None:
        """alpha: the change is scaled by alpha over the rank; None makes that 1. dropout: of x, in training."""
        super().__init__()
        self.given_alpha = alpha
        self.dropout = dropout

    @property
    @abstractmethod
    def rank(self) -> int:
        """Of its factors."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def alpha(self) -> float:
        """What is divided by the rank to give `scale`."""
        return float(self.rank) if self.given_alpha is None else self.given_alpha

    @property
    def scale(self) -> float:
        """By what the product of the factors is multiplied."""
        return self.alpha / self.rank

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """x: (..., in) times the product of the factors: (..., out), without `scale`."""

    @abstractmethod
    def whole(self) -> Tensor:
        """The product of the factors, (out, in) in float32, without `scale`."""

    def forward(self, x: Tensor, base: Tensor, weight: Tensor, first: int = 0) -> Tensor:
        """What is added to `base`: (..., n), which is rows `first` to `first + n` of W x.

        x: (..., in). weight: W, (out, in). The last two are read only if `reads_base`.
        """
        return self._rows(x, first, base.shape[-1])

    def matrix(self, weight: Tensor) -> Tensor:
        """All of the change of W, (out, in) in float32."""
        return self.whole() * self.scale

    def tensors(self) -> dict[str, Tensor]:
        """Its factors under the names that they have in files."""
        given = {name: getattr(self, name) for name in self.FACTORS}
        return {self.FACTORS[name]: tensor for name, tensor in given.items() if tensor is not None}

    @abstractmethod
    def cut(self) -> list[Self]:
        """The changes of the three matrices in a fused one. They share what they can."""

    def _rows(self, x: Tensor, first: int, count: int) -> Tensor:
        return self.product(self._dropped(x))[..., first : first + count] * self.scale

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}"


def _cast(tensor: Tensor, x: Tensor) -> Tensor:
    return tensor.to(x.dtype)


class LoRA(Delta):
    """up (out, r) times down (r, in): Hu et al. 2021."""

    kind = "lora"
    FACTORS: ClassVar = {"up": "lora_up.weight", "down": "lora_down.weight"}

    def __init__(self, up: Tensor, down: Tensor, alpha: float | None = None, dropout: float = 0.0) -> None:
        super().__init__(alpha, dropout)
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)

    @classmethod
    def create(cls, weight: Tensor, rank: int, generator: Generator | None, fused: bool) -> Self:
        """As the official release starts: up from a normal distribution, down at zero."""
        rows, columns = weight.shape
        return cls(_normal(rows, rank, generator), torch.zeros(rank, columns))

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def product(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, _cast(self.down, x)), _cast(self.up, x))

    def _rows(self, x: Tensor, first: int, count: int) -> Tensor:
        """As for any change, with the scale where there are few values, and no row made that is not used."""
        narrow = F.linear(self._dropped(x), _cast(self.down, x)) * self.scale
        return F.linear(narrow, _cast(self.up[first : first + count], x))

    def whole(self) -> Tensor:
        return self.up.float() @ self.down.float()

    def cut(self) -> list[Self]:
        return [type(self)(up, self.down.detach(), self.alpha) for up in self.up.detach().chunk(FUSED)]


class DoRA(LoRA):
    """LoRA of the direction, with a length of its own for each row, or each column: Liu et al. 2024, equation 5.

    The gradient does not go through the norm (section 4.3 there).
    """

    kind = "dora"
    FACTORS: ClassVar = {**LoRA.FACTORS, "magnitude": "dora_scale"}
    reads_base = True

    def __init__(
        self, up: Tensor, down: Tensor, magnitude: Tensor, alpha: float | None = None, dropout: float = 0.0
    ) -> None:
        """magnitude: (out, 1) or (1, in)."""
        super().__init__(up, down, alpha, dropout)
        self.magnitude = nn.Parameter(magnitude)
        self.by_row = magnitude.shape[0] == up.shape[0]

    @classmethod
    def create(cls, weight: Tensor, rank: int, generator: Generator | None, fused: bool) -> Self:
        rows, columns = weight.shape
        lengths = weight.detach().float().norm(dim=1, keepdim=True)
        return cls(_normal(rows, rank, generator), torch.zeros(rank, columns), lengths)

    def forward(self, x: Tensor, base: Tensor, weight: Tensor, first: int = 0) -> Tensor:
        gain = (self.magnitude / self._norm(weight)).to(base.dtype)
        if self.by_row:
            rows = slice(first, first + base.shape[-1])
            return (base + self._rows(x, first, base.shape[-1])) * gain[rows, 0] - base
        scaled = x * gain[0]
        turned = F.linear(scaled, _cast(weight[first : first + base.shape[-1]], x))
        return turned + self._rows(scaled, first, base.shape[-1]) - base

    def matrix(self, weight: Tensor) -> Tensor:
        weight = weight.float()
        return (weight + super().matrix(weight)) * (self.magnitude.float() / self._norm(weight)) - weight

    @torch.no_grad()
    def _norm(self, weight: Tensor) -> Tensor:
        """Length of each row, or column, of W + scale up down, by the binomial formula; clear of zero."""
        weight, up, down = weight.float(), self.up.float() * self.scale, self.down.float()
        axis = 1 if self.by_row else 0
        if self.by_row:
            mixed, own = (weight @ down.T * up).sum(1), (up @ (down @ down.T) * up).sum(1)
        else:
            mixed, own = (up.T @ weight * down).sum(0), ((up.T @ up) @ down * down).sum(0)
        squares = weight.square().sum(axis) + 2 * mixed + own
        return squares.clamp(min=torch.finfo(torch.float32).tiny).sqrt().unsqueeze(axis)

    def cut(self) -> list[Self]:
        if not self.by_row:
            raise InputError("A DoRA whose lengths are those of columns can't be cut into queries, keys and values.")
        parts = zip(self.up.detach().chunk(FUSED), self.magnitude.detach().chunk(FUSED), strict=True)
        return [type(self)(up, self.down.detach(), lengths, self.alpha) for up, lengths in parts]


class LoHa(Delta):
    """(w1_a w1_b) times (w2_a w2_b), value by value, up to rank r squared: Hyeon-Woo et al. 2021 (FedPara)."""

    kind = "loha"
    FACTORS: ClassVar = {name: f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b")}

    def __init__(
        self,
        w1_a: Tensor,
        w1_b: Tensor,
        w2_a: Tensor,
        w2_b: Tensor,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        """w1_a, w2_a: (out, r). w1_b, w2_b: (r, in)."""
        super().__init__(alpha, dropout)
        self.w1_a, self.w1_b = nn.Parameter(w1_a), nn.Parameter(w1_b)
        self.w2_a, self.w2_b = nn.Parameter(w2_a), nn.Parameter(w2_b)

    @classmethod
    def create(cls, weight: Tensor, rank: int, generator: Generator | None, fused: bool) -> Self:
        """As LyCORIS starts: w2_a at zero."""
        rows, columns = weight.shape
        return cls(
            _normal(rows, rank, generator) * 0.1,
            _normal(rank, columns, generator),
            torch.zeros(rows, rank),
            _normal(rank, columns, generator),
        )

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.w1_a.shape[0], self.w1_b.shape[1]

    def product(self, x: Tensor) -> Tensor:
        """Through the r * r pairs of factors, row by row the outer products of both."""
        up = (self.w1_a[:, :, None] * self.w2_a[:, None, :]).flatten(1)
        down = (self.w1_b[:, None] * self.w2_b[None]).flatten(0, 1)
        return F.linear(F.linear(x, _cast(down, x)), _cast(up, x))

    def whole(self) -> Tensor:
        return (self.w1_a.float() @ self.w1_b.float()) * (self.w2_a.float() @ self.w2_b.float())

    def cut(self) -> list[Self]:
        b1, b2 = self.w1_b.detach(), self.w2_b.detach()
        ups = zip(self.w1_a.detach().chunk(FUSED), self.w2_a.detach().chunk(FUSED), strict=True)
        return [type(self)(a1, b1, a2, b2, self.alpha) for a1, a2 in ups]


class LoKr(Delta):
    """The Kronecker product of w1 and w2, each whole or a product of two: Yeh et al. 2023 (LyCORIS).

    alpha counts only where one of them is such a product; the rank of whole ones is 1.
    """

    kind = "lokr"
    FACTORS: ClassVar = {name: f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")}

    def __init__(self, factors: Mapping[str, Tensor], alpha: float | None = None, dropout: float = 0.0) -> None:
        """factors: w1 (a, b) or w1_a (a, r) and w1_b (r, b); w2 (c, d) likewise; then W is (a c, b d)."""
        super().__init__(alpha, dropout)
        for name in self.FACTORS:
            self.register_parameter(name, nn.Parameter(factors[name]) if name in factors else None)

    @classmethod
    def create(cls, weight: Tensor, rank: int, generator: Generator | None, fused: bool) -> Self:
        """w1 near the square root of the sides, w2 at zero. A fused matrix's w1 can be cut in three."""
        rows, columns = weight.shape
        a = FUSED * _divisor(rows // FUSED) if fused else _divisor(rows)
        b = _divisor(columns)
        factors = {"w1": _normal(a, b, generator)}
        if rank < max(rows // a, columns // b) / 2:
            factors |= {"w2_a": torch.zeros(rows // a, rank), "w2_b": _normal(rank, columns // b, generator)}
        else:
            factors["w2"] = torch.zeros(rows // a, columns // b)
        return cls(factors)

    @property
    def rank(self) -> int:
        inner: list[Tensor | None] = [self.w2_b, self.w1_b]  # pyright: ignore[reportAssignmentType]
        return next((len(factor) for factor in inner if factor is not None), 1)

    @property
    def scale(self) -> float:
        return 1.0 if self.w1_b is None and self.w2_b is None else super().scale

    @property
    def shape(self) -> tuple[int, int]:
        (a, b), (c, d) = self._factor("w1").shape, self._factor("w2").shape
        return a * c, b * d

    def _factor(self, name: str) -> Tensor:
        whole = getattr(self, name)
        return whole if whole is not None else getattr(self, f"{name}_a") @ getattr(self, f"{name}_b")

    def product(self, x: Tensor) -> Tensor:
        w1, w2 = _cast(self._factor("w1"), x), _cast(self._factor("w2"), x)
        return (w1 @ F.linear(x.unflatten(-1, (w1.shape[1], w2.shape[1])), w2)).flatten(-2)

    def whole(self) -> Tensor:
        return torch.kron(self._factor("w1").float(), self._factor("w2").float().contiguous())

    def cut(self) -> list[Self]:
        split = "w1" if self.w1 is not None else "w1_a"
        rows: Tensor = getattr(self, split).detach()
        if len(rows) % FUSED:
            raise InputError(f"A LoKr whose first factor has {len(rows)} rows can't be cut into three matrices.")
        shared = {name: getattr(self, name).detach() for name in self.FACTORS if getattr(self, name) is not None}
        return [type(self)(shared | {split: part}, self.given_alpha) for part in rows.chunk(FUSED)]


KINDS: dict[str, type[LoRA | LoHa | LoKr]] = {kind.kind: kind for kind in (LoRA, DoRA, LoHa, LoKr)}
"""Those that can be trained, by name."""


def _normal(rows: int, columns: int, generator: Generator | None) -> Tensor:
    return torch.randn(rows, columns, generator=generator)


def _divisor(number: int) -> int:
    """The largest divisor up to the square root.

    >>> _divisor(24), _divisor(7)
    (4, 1)
    """
    return next(part for part in range(math.isqrt(number), 0, -1) if number % part == 0)
