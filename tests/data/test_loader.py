from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

from littlecascade.data.getters import parse_captions_getter, parse_filters
from littlecascade.data.loader import NAMED, Loader, Singly, Tally
from littlecascade.data.stream import Lane, Skip, StreamConfig
from littlecascade.errors import InputError

NAMES = Singly(attrgetter("name"))  # can be pickled; a function of this module can't, where pytest imported it


def write_shards(folder: Path, sizes: Sequence[int]) -> tuple[Path, ...]:
    """One for each size, of so many samples, of which every third has a small width and every fifth no JSON."""
    paths = tuple(folder / f"{shard:02}.tar" for shard in range(len(sizes)))
    for path, size in zip(paths, sizes, strict=True):
        with tarfile.open(path, "w") as archive:
            for number in range(size):
                fields = b"{" if number % 5 == 4 else json.dumps({"width": 5 if number % 3 == 2 else 9}).encode()
                for suffix, content in (("jpg", b"x"), ("txt", b"a text"), ("json", fields)):
                    info = tarfile.TarInfo(f"{number:03}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return paths


def settings(shards: tuple[Path, ...], **others: Any) -> StreamConfig:
    return StreamConfig(
        shards,
        filters=parse_filters(["width", "lambda w: w > 6"]),
        caption=parse_captions_getter(["txt", "lambda t: t.upper()"]),
        **{"shuffle": 8, **others},
    )


def in_turn(config: StreamConfig, workers: int) -> list[str]:
    """What the lanes of one rank give, one sample from each in turn."""
    streams = [
        [
            outcome.name
            for outcome, *_ in Lane(config, number, workers).made(lambda one: one)
            if not isinstance(outcome, Skip)
        ]
        for number in range(workers)
    ]
    return [name for name in chain.from_iterable(zip_longest(*streams)) if name]


def continued(config: StreamConfig, workers: int, stop: int) -> tuple[list[str], Tally]:
    """All samples, with a stop after so many, where a new reader takes over."""
    first = Loader(config, NAMES, workers)
    before = list(islice(first, stop))
    state = json.loads(json.dumps(first.state_dict()))
    second = Loader(config, NAMES, workers)
    second.load_state_dict(state)
    return before + list(second), second.tally


def test_a_reader_goes_on_from_any_item_and_counts_on(tmp_path: Path) -> None:
    config = settings(write_shards(tmp_path, [7, 3, 9]), epochs=2)
    whole = Loader(config, NAMES)
    expected = list(whole)
    assert expected == in_turn(config, 1)
    # Of 7, 3 and 9 samples, 1 + 0 + 1 have no JSON, and of the rest 2 + 1 + 3 are small.
    assert whole.tally.delivered == len(expected) == 2 * (19 - 2 - 6)
    assert whole.tally.filtered == {"it does not pass width: lambda w: w > 6": 12}
    assert whole.tally.broken == 4
    assert sorted(line.split(":")[0] for line in whole.tally.named) == ["00.tar/004", "02.tar/004"]
    for stop in range(len(expected) + 1):
        assert continued(config, 0, stop) == (expected, whole.tally)


@pytest.mark.slow
def test_two_spawned_workers_take_turns_and_go_on_from_any_item(tmp_path: Path) -> None:
    config = settings(write_shards(tmp_path, [7, 3, 9, 2]), epochs=2)
    expected = in_turn(config, 2)
    for stop in (3, len(expected) - 2):
        result, tally = continued(config, 2, stop)
        assert result == expected
        assert tally.delivered == len(expected)
        assert sum(tally.filtered.values()) == 2 * (2 + 1 + 3)
        assert tally.broken == 2 * 2


@pytest.mark.slow
def test_what_fails_in_a_worker_is_one_line(tmp_path: Path) -> None:
    loader = Loader(settings((tmp_path / "absent.tar",)), NAMES, workers=1)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert "3 shards in a row gave no sample" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    loader = Loader(settings(write_shards(tmp_path, [5]), epochs=1), NAMES)
    before = torch.random.get_rng_state()
    assert list(loader)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_ranks_share_the_samples(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [5, 5, 5])
    ranks = [list(Loader(settings(shards, epochs=1, rank=rank, world_size=4), NAMES)) for rank in range(4)]
    alone = list(Loader(settings(shards, epochs=1), NAMES))
    assert sorted(chain.from_iterable(ranks)) == sorted(alone)
    assert len(set(alone)) == len(alone) == 9


def test_an_endless_reader_goes_round(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [4, 4])
    once = set(Loader(settings(shards, epochs=1), NAMES))
    many = list(islice(Loader(settings(shards), NAMES), 5 * len(once)))
    for start in range(0, len(many), len(once)):
        assert set(many[start : start + len(once)]) == once


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed 0 so far, and now it is 1"),
        ({"shuffle": 4}, "shuffle 8"),
        ({"world_size": 2}, "world_size 1"),
    ],
)
def test_another_order_can_not_be_gone_on_with(tmp_path: Path, change: dict[str, int], said: str) -> None:
    shards = write_shards(tmp_path, [2, 2])
    state = Loader(settings(shards), NAMES).state_dict()
    with pytest.raises(InputError, match=said):
        Loader(settings(shards, **change), NAMES).load_state_dict(state)
    with pytest.raises(InputError, match="workers 0 so far, and now it is 2"):
        Loader(settings(shards), NAMES, workers=2).load_state_dict(state)
    with pytest.raises(InputError, match="shards"):
        Loader(settings(shards[:1]), NAMES).load_state_dict(state)


def test_shards_may_move_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = (settings(write_shards(tmp_path / name, [6, 4]), epochs=1) for name in ("old", "new"))
    first, second = Loader(old, NAMES), Loader(new, NAMES)
    before = list(islice(first, 2))
    second.load_state_dict(first.state_dict())
    assert before + list(second) == list(Loader(old, NAMES))


def test_a_tally_names_the_first_few(tmp_path: Path) -> None:
    tally = Tally()
    tally.add(Skip(f"{number % 30}", "is broken") for number in range(100))
    assert tally.broken == 100
    assert tally.named == [f"{number}: is broken" for number in range(NAMED)]
