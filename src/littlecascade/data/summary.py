"""What a data set consists of, in counts: sizes, shapes, buckets, what cropping costs, and lengths of captions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from littlecascade.data.buckets import Buckets, Size
from littlecascade.data.look import Look


@dataclass(frozen=True)
class Summary:
    """Counts over the pictures that can be decoded (sizes are upright), and over all captions.

    ratios: of width to height, rounded to hundredths. losses: by bucket, the mean share of a picture's area that
    cropping to it cuts off; bucket_loss and square_loss: the means over all pictures.
    """

    samples: int
    sizes: Counter[Size]
    ratios: Counter[float]
    buckets: Counter[Size]
    losses: dict[Size, float]
    bucket_loss: float
    square_loss: float
    tokens: Counter[int]

    @classmethod
    def of(cls, looks: Sequence[Look], buckets: Buckets) -> Summary:
        """Count."""
        sizes = Counter(look.measures.size for look in looks if look.measures)
        ratios: Counter[float] = Counter()
        chosen: Counter[Size] = Counter()
        lost: defaultdict[Size, float] = defaultdict(float)
        for size, count in sizes.items():
            bucket = buckets.nearest(*size)
            ratios[round(size[0] / size[1], 2)] += count
            chosen[bucket] += count
            lost[bucket] += count * lost_area(size, bucket)
        total = sizes.total() or 1
        return cls(
            samples=len(looks),
            sizes=sizes,
            ratios=ratios,
            buckets=chosen,
            losses={bucket: lost[bucket] / count for bucket, count in chosen.items()},
            bucket_loss=sum(lost.values()) / total,
            square_loss=sum(count * lost_area(size, (1, 1)) for size, count in sizes.items()) / total,
            tokens=Counter(tokens for look in looks for tokens in look.tokens),
        )

    def to_json(self) -> dict[str, Any]:
        """The same as values that JSON has, the most frequent first; sizes are written `WIDTHxHEIGHT`."""
        return {
            "samples": self.samples,
            "decoded": self.sizes.total(),
            "sizes": {_written(size): count for size, count in self.sizes.most_common()},
            "ratios": {f"{ratio:g}": count for ratio, count in self.ratios.most_common()},
            "buckets": {
                _written(bucket): {"pictures": count, "area_lost": round(self.losses[bucket], 4)}
                for bucket, count in self.buckets.most_common()
            },
            "area_lost": {"to_bucket": round(self.bucket_loss, 4), "to_square": round(self.square_loss, 4)},
            "tokens": {str(tokens): count for tokens, count in sorted(self.tokens.items())},
        }


def lost_area(size: Size, shape: Size) -> float:
    """The share of a picture's area that is cut off where it is cropped to a shape, in [0, 1).

    >>> lost_area((300, 200), (1, 1)), lost_area((512, 512), (512, 512))
    (0.33333333333333337, 0.0)
    """
    width, height = size
    across, down = width * shape[1], height * shape[0]
    return 1 - min(across, down) / max(across, down)


def _written(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
