from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from littlecascade.checkpoint import files
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.errors import InputError


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name])


def test_safetensors_round_trip_with_metadata(tmp_path: Path, tensors) -> None:
    path = tmp_path / "new folder" / "w.safetensors"
    files.save(path, tensors, {"config": "{}"})
    assert_same(files.load(path), tensors)
    assert_same(load_file(path), tensors)
    assert files.metadata(path) == {"config": "{}"}


def test_views_transposes_and_tied_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "tied": whole, "transposed": whole.T, "row": whole[1]}
    files.save(tmp_path / "w.safetensors", {**tensors, "row": whole[1].clone()})
    assert_same(files.load(tmp_path / "w.safetensors"), tensors)


def test_loaded_tensors_are_mapped_and_changing_them_leaves_the_file(tmp_path: Path, tensors) -> None:
    path = tmp_path / "w.safetensors"
    files.save(path, tensors)
    files.load(path)["b"].zero_()
    assert_same(files.load(path), tensors)


def test_a_loaded_file_can_be_saved_over_itself(tmp_path: Path, tensors) -> None:
    path = tmp_path / "w.safetensors"
    files.save(path, tensors)
    files.save(path, files.load(path))
    assert_same(files.load(path), tensors)


def test_every_number_format_and_shape_is_written_as_safetensors_reads_it(tmp_path: Path) -> None:
    tensors = {name: torch.arange(1, 4).to(dtype) for name, dtype in files.DTYPES.items()} | {
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "ünder": torch.ones(2, 1, 3, dtype=torch.float16),
    }
    files.save(tmp_path / "w.safetensors", tensors)
    assert_same(load_file(tmp_path / "w.safetensors"), tensors)


def test_tensors_are_made_one_at_a_time(tmp_path: Path) -> None:
    alive = weakref.WeakSet()

    def make() -> torch.Tensor:
        assert not list(alive), "the one before is still held"
        tensor = torch.ones(3)
        alive.add(tensor)
        return tensor

    names = [f"t{number}" for number in range(4)]
    outline = dict.fromkeys(names, torch.empty(3, device="meta"))
    files.save(tmp_path / "w.safetensors", LazyTensors(dict.fromkeys(names, make)), outline=outline)
    assert_same(files.load(tmp_path / "w.safetensors"), dict.fromkeys(names, torch.ones(3)))


def test_tensors_that_are_not_as_announced_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="announced as"):
        files.save(tmp_path / "w.safetensors", {"a": torch.ones(3)}, outline={"a": torch.ones(4)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_pytorch_files_are_read_and_unwrapped(tmp_path: Path, tensors, suffix: str, wrapped: bool, old: bool) -> None:
    path, content = tmp_path / f"w{suffix}", {"state_dict": tensors, "step": 3} if wrapped else tensors
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    assert_same(files.load(path), tensors)
    assert files.metadata(path) == {}


def test_a_failing_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, tensors) -> None:
    path = tmp_path / "w.safetensors"
    files.save(path, tensors)

    def run_out_of_space() -> torch.Tensor:
        raise OSError(28, "No space left on device")

    halfway = LazyTensors({"a": lambda: torch.zeros(100), "b": run_out_of_space})
    with pytest.raises(OSError, match="No space left"):
        files.save(path, halfway, outline={"a": torch.zeros(100), "b": torch.zeros(2)})
    assert_same(files.load(path), tensors)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickled_code_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="can't be read"):
        files.load(tmp_path / "w.pt")
    assert not (tmp_path / "executed").exists()


def test_what_is_no_weight_file_is_told(tmp_path: Path, tensors) -> None:
    path = tmp_path / "stage_c.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"no weight file .*Did you mean 'stage_c.safetensors'"):
        files.load(tmp_path / "stage_d.safetensors")
    with pytest.raises(InputError, match=r"its name ends in none of \.safetensors"):
        files.load(tmp_path / "picture.png")
    with pytest.raises(InputError, match="no weight file"):
        files.metadata(tmp_path / "no folder" / "w.safetensors")

    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="cut short"):
        files.load(path)
    (tmp_path / "w.pt").write_bytes(b"no pickle")
    with pytest.raises(InputError, match="can't be read"):
        files.load(tmp_path / "w.pt")
    torch.save({"step": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="something other than tensors"):
        files.load(tmp_path / "w.pt")
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(InputError, match="something other than tensors"):
        files.load(tmp_path / "w.pt")


def test_whole_lines_of_the_processors_cache_begin_at_one(tmp_path: Path) -> None:
    """Where a mapped matrix begins is not to differ with what is before it in its file."""
    for count in range(1, 9):
        tensors = {f"{'x' * count}-{number}": torch.ones(16 * count) for number in range(count)}
        tensors["a"], tensors["b"] = torch.ones((), dtype=torch.float64), torch.ones(32, 3, dtype=torch.bfloat16)
        files.save(tmp_path / "x.safetensors", tensors)
        loaded = files.load(tmp_path / "x.safetensors")
        assert_same(load_file(tmp_path / "x.safetensors"), tensors)
        assert {tensor.data_ptr() % 64 for name, tensor in loaded.items() if name != "a"} == {0}
        assert loaded["a"].data_ptr() % 8 == 0
