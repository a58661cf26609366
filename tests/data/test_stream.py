from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littlecascade.data import stream
from littlecascade.data.getters import parse_captions_getter, parse_filters
from littlecascade.data.pipes import Pipe
from littlecascade.data.stream import START, Example, Lane, Skip, StreamConfig, find_shards, read_shard
from littlecascade.errors import InputError

SUFFIXES = frozenset({"jpg", "txt", "json"})


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder: Path, sizes: Sequence[int]) -> tuple[Path, ...]:
    """One for each size, of so many samples: a picture that can't be decoded, and a caption."""
    return tuple(
        write_tar(
            folder / f"{shard:02}.tar",
            ((f"{number:03}.{suffix}", suffix.encode()) for number in range(size) for suffix in ("jpg", "txt")),
        )
        for shard, size in enumerate(sizes)
    )


def names(sizes: Sequence[int]) -> list[str]:
    return [f"{shard:02}.tar/{number:03}" for shard, size in enumerate(sizes) for number in range(size)]


def as_it_is(example: Example) -> Example:
    return example


def used(lane: Lane, make: Callable[[Example], Any] = as_it_is, **keywords: Any) -> list[Any]:
    return [outcome for outcome, *_ in lane.made(make, **keywords) if not isinstance(outcome, Skip)]


def skipped(lane: Lane) -> list[Skip]:
    return [outcome for outcome, *_ in lane.made(as_it_is) if isinstance(outcome, Skip)]


def only_lane(*shards: Path, **settings: Any) -> Lane:
    return Lane(StreamConfig(shards, **{"epochs": 1, **settings}), 0, 1)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    lanes=st.integers(1, 9),
    shuffle=st.integers(0, 12),
    seed=st.integers(0, 3),
)
def test_every_sample_comes_once_in_every_epoch(sizes: list[int], lanes: int, shuffle: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder), sizes)
        config = StreamConfig(shards, seed=seed, shuffle=shuffle, epochs=3)
        seen: Counter[tuple[int, str]] = Counter()
        for number in range(lanes):
            examples = used(Lane(config, number, lanes))
            seen.update((example.address.epoch, example.name) for example in examples)
    assert seen == Counter((epoch, name) for epoch in range(3) for name in names(sizes))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    lanes=st.integers(1, 3),
    shuffle=st.integers(0, 9),
    resampled=st.booleans(),
    stop=st.integers(0, 40),
)
def test_a_lane_goes_on_from_any_cursor(sizes: list[int], lanes: int, shuffle: int, resampled: bool, stop: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder), sizes)
        lane = Lane(StreamConfig(shards, shuffle=shuffle, resampled=resampled, epochs=3), 0, lanes)
        whole = list(lane.made(as_it_is))
        stop = min(stop, len(whole))
        cursor = whole[stop - 1][2] if stop else START
        assert list(lane.made(as_it_is, cursor)) == whole[stop:]


@pytest.mark.parametrize("resampled", [False, True])
def test_samples_are_found_again_by_address(tmp_path: Path, resampled: bool) -> None:
    lane = Lane(StreamConfig(write_shards(tmp_path, [5, 3]), shuffle=4, epochs=2, resampled=resampled), 1, 3)
    whole = {example.address: example for example in used(lane)}
    chosen = [address for number, address in enumerate(whole) if number % 2]
    assert chosen
    assert lane.made_again(as_it_is, chosen) == {address: whole[address] for address in chosen}


def test_without_shuffling_samples_come_as_they_lie(tmp_path: Path) -> None:
    sizes = [4, 2, 3]
    shards = write_shards(tmp_path, sizes)
    assert [example.name for example in used(only_lane(*shards, shuffle=0, epochs=2))] == names(sizes) * 2


def test_shuffling_mixes_shards_and_what_lies_in_a_block(tmp_path: Path) -> None:
    sizes = [10] * 6
    config = StreamConfig(write_shards(tmp_path, sizes), shuffle=40, epochs=2)  # blocks of 20: two shards
    order = [example.name for example in used(Lane(config, 0, 1))]
    assert order[:60] != order[60:]
    shards = [Counter(name.partition("/")[0] for name in order[start : start + 20]) for start in range(0, 120, 20)]
    assert all(sorted(block.values()) == [10, 10] for block in shards)
    assert len({frozenset(block) for block in shards}) > 3
    for start in range(0, 120, 20):
        numbers = [name[-3:] for name in order[start : start + 20] if name.startswith(order[start][:6])]
        assert numbers != sorted(numbers)


def test_another_seed_is_another_order(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [8, 8])
    orders = [tuple(example.name for example in used(only_lane(*shards, seed=seed))) for seed in range(5)]
    assert len(set(orders)) == 5


def test_lanes_that_do_not_divide_the_shards_take_turns(tmp_path: Path) -> None:
    """5 shards on 4 lanes: in 4 epochs, each lane has 5 shares, one of them twice in one epoch."""
    config = StreamConfig(write_shards(tmp_path, [1] * 5), epochs=4)
    shares = [[len(Lane(config, number, 4).pieces(epoch)) for epoch in range(4)] for number in range(4)]
    assert all(sorted(lane) == [1, 1, 1, 2] for lane in shares)


def test_resampling_draws_with_replacement_and_differently_in_each_lane(tmp_path: Path) -> None:
    config = StreamConfig(write_shards(tmp_path, [1] * 20), resampled=True, shuffle=0)
    draws = [[piece.shard for epoch in range(50) for piece in Lane(config, lane, 2).pieces(epoch)] for lane in (0, 1)]
    assert draws[0] != draws[1]
    assert len(set(draws[0][:20])) < 20
    counts = Counter(draws[0])
    assert set(counts) == set(range(20))
    assert all(20 < count < 90 for count in counts.values())  # 50 expected, with a deviation of 7


def test_a_visit_has_a_seed_of_its_own(tmp_path: Path) -> None:
    config = StreamConfig(write_shards(tmp_path, [3, 3]), resampled=True, epochs=6)
    seeds = [example.seed for number in range(2) for example in used(Lane(config, number, 2))]
    assert len(set(seeds)) == len(seeds) == 72


def member(name: str, content: bytes | Mapping[str, Any]) -> tuple[str, bytes]:
    return name, content if isinstance(content, bytes) else str(content).replace("'", '"').encode()


def test_filters_and_captions_apply_to_each_sample(tmp_path: Path) -> None:
    shard = write_tar(
        tmp_path / "s.tar",
        [
            *(member("a.jpg", b"A"), member("a.json", {"width": 800, "text": "an A"})),
            *(member("b.jpg", b"B"), member("b.json", {"width": 700, "text": "a B"})),
            *(member("c.jpg", b"C"), member("c.json", {"text": "a C"})),
            *(member("d.jpg", b"D"), member("d.json", {"width": 900})),
            *(member("e.jpg", b"E"), member("e.json", b"{")),
        ],
    )
    lane = only_lane(
        shard,
        shuffle=0,
        filters=parse_filters(["width", "lambda w: w >= 768"]),
        caption=parse_captions_getter(["json", "text"]),
    )
    assert [(one.name, one.picture, one.caption, one.fields) for one in used(lane)] == [
        ("s.tar/a", b"A", "an A", {"width": 800, "text": "an A"})
    ]
    b, c, d, e = skipped(lane)
    assert b == Skip("s.tar/b", "it does not pass width: lambda w: w >= 768", filtered=True)
    assert c == Skip("s.tar/c", "there is no field 'width'", filtered=True)
    assert (d.name, d.filtered, d.reason) == ("s.tar/d", False, "it has no caption: there is no field 'text'")
    assert e.reason.startswith("its .json is not JSON")


def test_captions_are_optional_unless_asked_for(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", [member("a.jpg", b"A"), member("b.jpg", b"B"), member("b.txt", b"\n b \n")])
    assert [example.caption for example in used(only_lane(shard, shuffle=0))] == ["", "b"]
    strict = only_lane(shard, shuffle=0, caption=parse_captions_getter(["txt", "identity"]))
    assert [example.caption for example in used(strict)] == ["\n b \n"]
    assert skipped(strict) == [Skip("s.tar/a", "it has no .txt for its caption")]


def test_a_sample_without_a_picture_and_one_that_is_too_large_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LARGEST_MEMBER", 10)
    shard = write_tar(
        tmp_path / "s.tar",
        [member("a.txt", b"a"), member("._b.jpg", b"x"), member("B.JPG", b"x"), member("c/d.png", bytes(11))],
    )
    lane = only_lane(shard, shuffle=0)
    assert [example.name for example in used(lane)] == ["s.tar/B"]
    assert skipped(lane) == [
        Skip("s.tar/a", "it has no picture"),
        Skip("s.tar/c/d", "its .png has 11 bytes, more than 10"),
    ]


@pytest.mark.parametrize("kept", range(100, 512 * 8, 300))
def test_a_shard_that_was_cut_short_gives_what_is_whole(tmp_path: Path, kept: int) -> None:
    """A sample has 4 blocks of 512 bytes: the header and 3 bytes of the picture, and the same of the caption."""
    (shard,) = write_shards(tmp_path, [2])
    shard.write_bytes(shard.read_bytes()[:kept])
    samples = [packed for _, packed in read_shard(shard, SUFFIXES)]
    whole = [packed.name for packed in samples if len(packed.members) == 2]
    assert whole == [name for number, name in enumerate(names([2])) if kept >= 2048 * number + 3 * 512 + 3]
    assert samples[-1].fault.startswith("nothing can be read behind")
    assert samples[-1].name == "00.tar"


def test_damage_in_the_middle_is_named_and_the_next_shard_read(tmp_path: Path) -> None:
    first, second = write_shards(tmp_path, [3, 2])
    content = bytearray(first.read_bytes())
    content[2048:2148] = b"\xff" * 100  # the name in the header of the second sample
    first.write_bytes(content)
    lane = only_lane(first, second, shuffle=0)
    assert [example.name for example in used(lane)] == ["00.tar/000", "01.tar/000", "01.tar/001"]
    (skip,) = skipped(lane)
    assert skip.name == "00.tar"
    assert "behind its first 1 samples" in skip.reason


def test_shards_that_give_nothing_end_the_run(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [0, 0, 0])
    with pytest.raises(InputError, match=r"3 shards in a row gave no sample; the last, 0.\.tar: it holds no sample"):
        used(only_lane(*shards))
    with pytest.raises(InputError, match="3 shards in a row gave no sample"):
        used(only_lane(tmp_path / "absent.tar", epochs=None))


def test_filters_that_let_nothing_pass_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 50)
    lane = only_lane(*write_shards(tmp_path, [4]), epochs=None, filters=parse_filters("width > 5"))
    with pytest.raises(InputError, match=r"None of 50 samples in a row .* there is no field 'width'\. Look at"):
        used(lane)


def test_more_readers_than_samples_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 50)
    config = StreamConfig(write_shards(tmp_path, [2]))
    with pytest.raises(InputError, match=r"00\.tar: it has fewer samples than it has readers"):
        used(Lane(config, 2, 3))


def test_memory_holds_two_blocks(tmp_path: Path) -> None:
    """Of 200 samples, no more are read ahead than `shuffle` tells."""
    read = 0

    def counting(shard: Any, *arguments: Any) -> Iterable[Any]:
        nonlocal read
        for item in read_shard(shard, *arguments):
            read += 1
            yield item

    lane = only_lane(*write_shards(tmp_path, [100, 100]), shuffle=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "read_shard", counting)
        for number, _ in enumerate(islice(lane.made(as_it_is), 150)):
            assert read <= number + 20


def test_shards_are_found_by_place(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [1, 1, 1])
    assert find_shards(str(tmp_path / "{00..01}.tar")) == shards[:2]
    assert find_shards([str(shards[2]), str(tmp_path)]) == (shards[2], *shards)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"No tar file in '.*pictures'"):
        find_shards(str(tmp_path / "pictures"))


def test_a_program_is_read_like_the_file_that_it_writes(tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, [40])
    copy = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
    pipe = Pipe((sys.executable, "-c", copy, str(shard)))
    assert list(islice(read_shard(pipe, SUFFIXES), 30)) == [
        (index, replace(packed, name=packed.name.replace(shard.name, str(pipe))))
        for index, packed in islice(read_shard(shard, SUFFIXES), 30)
    ]
    failing = Pipe((sys.executable, "-c", "import sys; sys.exit('no such bucket')"))
    ((_, lost),) = read_shard(failing, SUFFIXES)
    assert "no such bucket" in lost.fault


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rank": 2, "world_size": 2}, "Rank 2"), ({"shuffle": -1}, "shuffle"), ({"epochs": 0}, "epochs")],
)
def test_settings_that_make_no_sense_are_told(tmp_path: Path, settings: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        only_lane(tmp_path / "a.tar", **settings)
    with pytest.raises(InputError, match="no shard"):
        StreamConfig(())
