"""Prompts that a LoRA is to leave as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from littlecascade.training.config_file import parse_config
from littlecascade.training.draws import Draws
from littlecascade.training.run import TASKS
from littlecascade.training.tasks.lora import LoraTask

PROMPTS = ["a red square", "a blue square"]
TOKENS = [["[thing]", "^square</w>"]]


def build(made_up: dict[str, Any], stage_c_file: Path, **settings: Any) -> LoraTask:
    own = {"generator_checkpoint_path": str(stage_c_file), "rank": 2, "lora_alpha": 2, "module_filters": ["."]}
    task = TASKS["lora"].build(parse_config(TASKS["lora"].config, made_up["c"] | own | settings))
    assert isinstance(task, LoraTask)
    return task


def disturb(task: LoraTask) -> None:
    """Make the LoRA one that changes much, in what maps the prompt as well."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.changes[0].deltas.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("tokens", [[], TOKENS])
def test_the_model_itself_says_what_is_to_stay(made_up: Any, stage_c_file: Path, tokens: Any) -> None:
    """The loss is the squared difference to the predictions of a network that never had a LoRA."""
    settings = {"prior_prompts": PROMPTS, "prior_share": 1.0, "train_tokens": tokens}
    task, rows = build(made_up, stage_c_file, **settings), range(4)
    batch = task.prepare(task.feed.take(0), Draws(0, rows))
    assert float(task.loss("lora", batch, Draws(0, rows, 1), 0.0).value.detach()) == 0
    disturb(task)
    predictions: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():  # not what the task asks the network without the LoRA
            predictions.append(output.detach())

    task.network.register_forward_hook(keep)
    loss = task.loss("lora", batch, Draws(0, rows, 1), 0.0).value
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.changes[0].deltas.parameters())
    plain = build(made_up, stage_c_file, train_tokens=tokens)
    plain.changes[0].injection.remove()
    plain.network.register_forward_hook(keep)
    plain.loss("lora", {name: value for name, value in batch.items() if name != "kept"}, Draws(0, rows, 1), 0.0)
    changed, unchanged = predictions
    assert float(loss.detach()) == pytest.approx(float((changed - unchanged).square().mean()), rel=1e-5)
    assert loss > 1e-3


def test_some_samples_make_way_and_the_others_stay(made_up: Any, stage_c_file: Path) -> None:
    plain, task = (build(made_up, stage_c_file, prior_prompts=prompts) for prompts in ([], PROMPTS))
    rows = range(64)
    raw = [row % 8 for row in rows]
    before, after = (one.prepare(raw, Draws(0, rows)) for one in (plain, task))
    kept = after["kept"]
    assert 16 < int(kept.sum()) < 48
    assert all(torch.equal(after[name][~kept], before[name][~kept]) for name in before)
    drawn = task.prior.latents
    own = task.data.embed(PROMPTS)
    for row in kept.nonzero().flatten().tolist():
        (prompt,) = [number for number in range(2) if torch.equal(after["x0"][row], drawn[number])]
        assert torch.equal(after["text"][row], own.hidden[prompt])
        assert torch.equal(after["pooled"][row], own.pooled[prompt])
        assert not after["image"][row].any()


def test_the_pictures_are_those_of_the_model_without_the_lora(made_up: Any, stage_c_file: Path) -> None:
    settings = {"prior_prompts": PROMPTS, "train_tokens": TOKENS}
    first, second = (build(made_up, stage_c_file, **settings) for _ in range(2))
    assert torch.equal(first.prior.latents, second.prior.latents)
    disturb(first)
    assert torch.equal(first._draw_prior().latents, second.prior.latents)
    assert first.prior.latents.std() > 0
