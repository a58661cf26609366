"""What people who tried Stable Cascade ran into, by the numbers of docs/pains.md: here it does not happen."""

from __future__ import annotations

import io
import json
import os
import re
import time
import tomllib
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

from littlecascade.checkpoint import download, files
from littlecascade.checkpoint.places import packaged
from littlecascade.memory.placement import Machine, choose
from littlecascade.models.stage_c import StageC
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.config_file import load_config
from littlecascade.training.data import StreamedData

ROOT = Path(__file__).parents[2]
FAST = ("--steps", "2", "--decoder-steps", "1", "--seed", "5", "--size", "64")
TEXT_TOWER = 694_659_840
LITE = {"text": TEXT_TOWER, "stage_c": 1_030_785_040, "stage_b": 699_471_248, "stage_a": 18_406_894}
FULL = {"text": TEXT_TOWER, "stage_c": 3_589_103_632, "stage_b": 1_562_941_136, "stage_a": 18_406_894}
"""Parameters of the official networks."""

Call = Callable[..., Any]
Configure = Callable[..., str]


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def lora(run: Path) -> str:
    """The file that was trained."""
    return str(run / "export" / "mine.safetensors")


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, 1),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 1),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 0),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, 0),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, 1),  # a shell inside an allocation
    ],
    ids=["alone", "torchrun-0", "torchrun-1", "srun-1", "salloc"],
)
def test_pain_01_slurm_variables_are_not_required_and_are_understood(
    environment: dict[str, str], share: int, call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one part of a small data set is made by the first of two processes, and by one that is alone."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = call("data", "cache", "pictures", configure())
    assert done.code == 0
    assert re.search(rf"4 samples, {share}\b.* parts were missing and are made", done.out)


def test_pain_02_without_bfloat16_float16_draws_and_trains_with_loss_scaling(call: Call, configure: Configure) -> None:
    turing = Machine(torch.device("cuda"), 10.2 * 2**30, bfloat16=False)
    for parameters in (LITE, FULL):
        chosen = choose(turing, parameters, 1024)
        assert (chosen.dtype, chosen.fits) == (torch.float16, True)
    assert call("train", "lora", configure(precision="float16", updates=6)).code == 0
    (row,) = metrics(Path("runs/mine"))
    assert row["loss_scale"] > 1  # a mean: it begins at 65,536, and halves where gradients overflow
    assert row["skipped"] == 0
    trained = files.load("runs/mine/export/mine.safetensors")
    assert all(tensor.isfinite().all() for tensor in trained.values())
    assert all(tensor.any() for name, tensor in trained.items() if name.endswith("lora_down"))  # 0 at first


def test_pain_03_a_local_tar_in_a_list_is_never_sent_to_aws(
    here: Path, call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = here / "programs"
    programs.mkdir()
    for name, line in (("aws", f"#!/bin/sh\ntouch '{here / 'called'}'\n"), ("aws.bat", f"echo > {here / 'called'}\n")):
        (programs / name).write_text(line, "utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs) + os.pathsep + os.environ["PATH"])
    config = configure(webdataset_path=["one.tar", f"file:{here / 'one.tar'}", "pictures"])
    assert call("data", "build", "pictures", "-o", "one.tar", "--size", "64", "--workers", "1").code == 0
    assert call("train", "lora", config, "--dry-run").code == 0
    done = call("train", "lora", config, "--set", "updates=1")
    assert done.code == 0
    assert "12 samples" in done.err
    assert not (here / "called").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"webdataset_path": "picture"}, "pictures"),
        ({"webdataset_path": ["pictures", "data-*.tar"]}, "data-*.tar"),
        ({"generator_checkpoint_path": "models/stage_d.safetensors"}, "models/stage_c.safetensors"),
    ],
    ids=["folder", "glob", "weights"],
)
def test_pain_04_what_is_missing_is_told_in_seconds_with_the_nearest(
    keys: dict[str, Any], said: str, here: Path, call: Call, configure: Configure
) -> None:
    (here / "models").mkdir()
    (here / "models" / "stage_c.safetensors").touch()
    start = time.monotonic()
    done = call("train", "lora", configure(**keys))
    assert time.monotonic() - start < 5
    assert done.code == 2
    assert str(Path(said)) in done.err
    assert not Path("runs").exists()


def test_pain_05_a_lora_that_does_not_fit_goes_on_with_less(
    call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for one picture a run of four ends as one that had been set to four micro-batches of one."""
    keys: dict[str, Any] = {"batch_size": 4, "updates": 2}
    assert call("train", "lora", configure(experiment_id="small", grad_accum_steps=4, **keys)).code == 0
    forward = StageC.forward

    def short(self: StageC, x: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, x, *arguments, **named)

    monkeypatch.setattr(StageC, "forward", short)
    done = call("train", "lora", configure(experiment_id="large", **keys))
    assert done.code == 0
    assert "the batch of 4 goes on as 4 micro-batches of 1" in done.err
    small, large = (files.load(f"runs/{name}/export/{name}.safetensors") for name in ("small", "large"))
    assert all(torch.equal(small[name], large[name]) for name in small.keys() | large.keys())


def test_pain_06_a_full_finetune_takes_few_bytes_a_weight(call: Call, configure: Configure) -> None:
    """A checkpoint has 6, the weights and what will be exported. With AdamW it has 16, and gradients are not in it."""
    config = configure(
        rank=None,
        lora_alpha=None,
        updates=1,
        precision="bfloat16",
        optimizer="adafactor",
        master_weights="none",
        fused_backward=True,
        gradient_checkpointing=True,
    )
    assert call("train", "c", config).code == 0
    base = files.load(packaged("tiny") / "stage_c.safetensors")
    weights = sum(tensor.numel() for tensor in base.values())
    assert Path("runs/mine/state.safetensors").stat().st_size < 6.1 * weights
    tuned = files.load("runs/mine/export/stage_c.safetensors")
    changed = sum(not torch.equal(tuned[name].float(), tensor.float()) for name, tensor in base.items())
    assert changed > len(base) / 2


@pytest.mark.parametrize("free", [10.2, 11.2], ids=["11 GB", "12 GB"])
def test_pain_08_eleven_and_twelve_gigabytes_draw_with_every_size(free: float, call: Call) -> None:
    for parameters in (LITE, FULL):
        for bfloat16 in (False, True):
            placed = choose(Machine(torch.device("cuda"), free * 2**30, bfloat16), parameters, 1024)
            assert placed.fits, placed
    for offload in ("none", "block"):
        options = ("--offload", offload, "--precision", "float32", "-o", f"{offload}.png")
        assert call("generate", "a cat", *FAST, *options).code == 0
    assert np.array_equal(pixels("none.png"), pixels("block.png"))


def test_pain_10_a_seed_and_a_recipe_draw_the_same_picture_again(call: Call) -> None:
    assert call("generate", "a cat", *FAST, "-n", "3", "-o", "cat.png").code == 0
    assert call("generate", "a cat", *FAST, "--seed", "7", "-o", "alone.png").code == 0
    for name in ("cat-3", "alone"):
        assert call("generate", "--from", f"{name}.png", "-o", f"{name}-again.png").code == 0
    assert np.array_equal(pixels("alone.png"), pixels("alone-again.png"))
    for name in ("cat-3.png", "cat-3-again.png"):
        assert np.abs(pixels(name) - pixels("alone.png")).max() <= 1  # a batch may be added up in another order
    assert np.abs(pixels("cat-2.png") - pixels("alone.png")).max() > 50


def test_pain_12_requirements_are_ranges_that_hold_here() -> None:
    from importlib.metadata import version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    requirements = [Requirement(line) for line in project["dependencies"]]
    assert {requirement.name for requirement in requirements} >= {"torch", "safetensors", "numpy"}
    for requirement in requirements:
        assert {part.operator for part in requirement.specifier} <= {">=", "<", "!="}, str(requirement)
        assert requirement.url is None
        assert requirement.specifier.contains(version(requirement.name).partition("+")[0]), str(requirement)


def test_pain_14_all_that_a_reading_process_is_given_can_be_pickled(
    here: Path, call: Call, configure: Configure
) -> None:
    config = configure(**sweep())
    assert call("data", "build", "pictures", "-o", "one.tar", "--size", "64", "--workers", "1").code == 0
    data = StreamedData(load_config(LoraRun, Path(config)), torch.device("cpu"))
    there, here_again = Pipe()
    there.send((data.stream, data.stage))  # as to a process that was spawned
    stream, stage = here_again.recv()
    assert [stream.filters[0](fields) for fields in ({"width": 64}, {"width": 63})] == [True, False]
    assert stream == data.stream
    assert stage.batch_size == data.stage.batch_size == 1


@pytest.mark.slow
def test_pain_14_processes_that_were_spawned_read_with_an_official_filter(call: Call, configure: Configure) -> None:
    config = configure(workers=2, **sweep())
    assert call("data", "build", "pictures", "-o", "one.tar", "--size", "64", "--workers", "1").code == 0
    done = call("train", "lora", config)
    assert done.code == 0, done.err


def sweep() -> dict[str, Any]:
    """Keys of a run that reads a tar in processes of their own, with the official form of a filter."""
    return {
        "webdataset_path": "one.tar",
        "cache": False,
        "batch_size": 1,
        "updates": 1,
        "dataset_filters": [["width", "lambda w: w >= 64"]],
        "captions_getter": ["txt", "identity"],
    }


def test_pain_15_a_lora_learns_and_shows_it_or_is_warned_of(run: Path, call: Call, configure: Configure) -> None:
    trained = files.load(run / "export" / "mine.safetensors")
    assert all(tensor.any() for name, tensor in trained.items() if name.endswith("lora_down"))  # 0 at first
    previews = [pixels(str(run / f"preview-{update:06}.png")) for update in (1, 2)]
    without, by = zip(*(np.split(preview, 2) for preview in previews), strict=True)  # the LoRA is in the lower half
    assert np.array_equal(*without)
    assert not np.array_equal(*by)
    assert not np.array_equal(without[1], by[1])
    assert "can't learn" not in call("train", "lora", configure(), "--dry-run").out
    hopeless = configure(rank=256, lora_alpha=1, lr=1e-6, updates=1000)
    done = call("train", "lora", hopeless, "--dry-run")
    assert "this LoRA can't learn: rank 256, lora_alpha 1 and lr 1e-06" in done.out
    assert "Raise lora_alpha" in done.out


def test_pain_16_a_lora_goes_into_every_format_and_draws_the_same(lora: str, call: Call) -> None:
    drawn = {}
    for form in ("official", "onetrainer", "kohya", "comfy", "peft"):
        target = f"{form}.safetensors"
        tokens = ["--without-tokens"] if form == "peft" else []
        assert call("lora", "convert", lora, target, "--to", form, *tokens).code == 0
        drawn[form] = draw(call, form, f"{target}:{STRONG}")
    apart = {form: np.abs(image - drawn["official"]).max() for form, image in drawn.items()}
    assert max(apart.values()) <= 2, apart
    assert np.abs(draw(call, "plain") - drawn["official"]).max() > 20
    assert all(name.startswith(("lora_prior_unet_", "bundle_emb.")) for name in files.load("onetrainer.safetensors"))
    assert all(name.startswith(("lora_unet_", "bundle_emb.")) for name in files.load("kohya.safetensors"))


def test_pain_17_loras_are_stacked_each_with_its_scale_and_range(lora: str, call: Call) -> None:
    assert call("lora", "convert", lora, "other.safetensors", "--to", "kohya", "--without-tokens").code == 0
    whole = draw(call, "whole", f"{lora}:{STRONG}")
    parts = draw(call, "parts", f"{lora}:{STRONG / 4}", f"other.safetensors:{STRONG * 3 / 4}")
    turns = draw(call, "turns", f"{lora}:{STRONG}:0-0.5", f"other.safetensors:{STRONG}:0.5-1")
    assert max(np.abs(picture - whole).max() for picture in (parts, turns)) <= 2
    assert np.abs(draw(call, "first", f"{lora}:{STRONG}:0-0.5") - whole).max() > 5
    assert np.abs(draw(call, "plain") - whole).max() > 20


STRONG = 4.0
"""A scale at which two updates show."""


def draw(call: Call, name: str, *adapters: str) -> np.ndarray:
    """A picture drawn with adapters."""
    options = [word for adapter in adapters for word in ("--lora", adapter)]
    assert call("generate", "a dog", *FAST, *options, "-o", f"{name}.png").code == 0
    return pixels(f"{name}.png")


def test_pain_18_a_step_is_one_pass_and_stage_b_none_too_many(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The solvers of second order, too; guidance doubles a pass only while it is asked for."""
    from littlecascade.models.stage_b import StageB

    rows: dict[str, list[int]] = {"c": [], "b": []}
    for kind, name in ((StageC, "c"), (StageB, "b")):
        forward = kind.forward

        def counted(
            self: Any, x: torch.Tensor, *given: Any, forward: Any = forward, name: str = name, **named: Any
        ) -> Any:
            rows[name].append(len(x))
            return forward(self, x, *given, **named)

        monkeypatch.setattr(kind, "forward", counted)
    common = ("--decoder-steps", "3", "--decoder-guidance", "1", "--overwrite", "-o", "x.png")
    for sampler in ("ddim", "dpmpp_2m", "unipc"):
        rows["c"].clear()
        rows["b"].clear()
        done = call("generate", "x", "--sampler", sampler, "--steps", "4", "--guidance-interval", "0.4-0.8", *common)
        assert done.code == 0
        assert rows == {"c": [1, 2, 2, 1], "b": [1, 1, 1]}, sampler


@pytest.mark.parametrize("size", [(101, 67), (75, 150)], ids=str)
def test_pain_19_odd_sizes_and_batches_are_drawn(size: tuple[int, int], call: Call) -> None:
    given = "x".join(map(str, size))
    assert call("generate", "a cat", *FAST, "-n", "3", "--size", given, "-o", "cat.png").code == 0
    for name in ("cat-1.png", "cat-2.png", "cat-3.png"):
        assert pixels(name).shape == (size[1], size[0], 3)
    Image.new("RGB", size, "teal").save("odd.png")
    assert " dB" in call("reconstruct", "odd.png", "--decoder-steps", "1", "-o", "both.png").out


def test_pain_21_one_answer_lists_all_files_that_are_missing(call: Call) -> None:
    done = call("models", "verify", "lite")
    assert done.code == 1
    parts = ("text", "tokenizer", "image", "stage_c", "stage_b", "stage_a", "compressor", "previewer")
    states = {line.split()[0]: line.split()[1] for line in done.out.splitlines() if line.strip()}
    assert {part: states[part] for part in parts} == dict.fromkeys(parts, "missing")
    assert "'littlecascade models download lite --only" in done.out
    refused = call("generate", "a cat", "--model", "lite")
    assert refused.code == 2
    assert all(part in refused.err for part in ("stage_c", "stage_b", "stage_a", "text"))
    assert "littlecascade models download lite" in refused.err


@pytest.mark.parametrize(("task", "own"), [("b", {"generator_checkpoint_path": "stage_b.safetensors"}), ("a", {})])
def test_pain_22_stage_b_and_stage_a_are_trained_too(
    task: str, own: dict[str, str], call: Call, configure: Configure
) -> None:
    drop = dict.fromkeys(("rank", "lora_alpha", "generator_checkpoint_path"))
    if task == "a":
        drop |= dict.fromkeys(("objective", "loss_weight", "effnet_checkpoint_path", "previewer_checkpoint_path"))
    config = configure(**drop | own, stage_a_checkpoint_path="stage_a.safetensors", updates=1)
    assert call("train", task, config).code == 0
    name = f"stage_{task}.safetensors"
    before, after = files.load(packaged("tiny") / name), files.load(f"runs/mine/export/{name}")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key].float(), after[key].float()) for key in before)


def test_pain_23_the_licence_is_shown_and_your_own_weights_are_yours(
    call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = download.Item("stabilityai/stable-cascade", "stage_c_lite_bf16.safetensors", 2_061_634_872, None)
    monkeypatch.setattr(download, "plan", lambda *_, **__: [item])  # what the hub answers
    monkeypatch.setattr("sys.stdin", io.StringIO())
    done = call("models", "download", "lite")
    assert done.code == 2
    assert "Non-Commercial Research" in done.out
    assert "https://huggingface.co/stabilityai/stable-cascade/blob/main/LICENSE" in done.out
    assert "--accept-licence" in done.err
    drop = dict.fromkeys(("rank", "lora_alpha", "generator_checkpoint_path"))
    assert call("train", "c", configure(**drop, updates=1)).code == 0
    assert "licence" not in call("models", "show", "runs/mine/export/stage_c.safetensors").out
