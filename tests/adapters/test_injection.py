from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.adapters.merge import merge
from littlecascade.adapters.sites import select, sites
from littlecascade.errors import InputError
from littlecascade.presets import PRESETS

Predict = Callable[[nn.Module], Tensor]
EVERYTHING = ("re:.",)


@pytest.fixture(params=["stage_c", "stage_b", "tower"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    return request.getfixturevalue(request.param)


def everywhere(network: nn.Module) -> tuple[str, ...]:
    return ("self_attn", "mlp") if type(network).__name__ == "TextTower" else EVERYTHING


def by_hand(network: nn.Module, *layers: tuple[Deltas, float]) -> nn.Module:
    """A copy whose weights have the changes in them."""
    copy = deepcopy(network)
    for deltas, scale in layers:
        for name, delta in deltas.by_site.items():
            weight = copy.get_parameter(sites(network)[name].parameter)
            own = network.get_parameter(sites(network)[name].parameter)
            weight += scale * delta.matrix(own.flatten(1)).view(weight.shape)
    return copy


@torch.no_grad()
def test_at_the_start_nothing_changes(network: nn.Module, kind: str, predict: Predict) -> None:
    before = predict(network)
    with Injection(network, [Layer(Deltas.create(network, everywhere(network), kind=kind))]):
        after = predict(network)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 if kind == "dora" else 0)  # its lengths are rounded


@torch.no_grad()
def test_the_path_equals_merged_weights(
    network: nn.Module, kind: str, predict: Predict, trained: Callable[..., Deltas]
) -> None:
    deltas = trained(network, kind, filters=everywhere(network))
    before, merged = predict(network), predict(by_hand(network, (deltas, 0.7)))
    assert (before - merged).std() > 0.05 * before.std()
    with Injection(network, [Layer(deltas, 0.7)]):
        assert (predict(network) - merged).abs().max() < 1e-5 * merged.abs().max().clamp(min=1)


@torch.no_grad()
def test_taken_out_the_network_is_what_it_was(
    network: nn.Module, predict: Predict, trained: Callable[..., Deltas]
) -> None:
    before, weights = predict(network), deepcopy(network.state_dict())
    with Injection(network, [Layer(trained(network, filters=everywhere(network)))]):
        assert list(network.state_dict()) == list(weights)
        assert not torch.equal(predict(network), before)
    assert torch.equal(predict(network), before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@torch.no_grad()
def test_stacked_they_add_up(stage_c: nn.Module, predict: Predict, trained: Callable[..., Deltas]) -> None:
    one, other = trained(stage_c, "lora", 1), trained(stage_c, "dora", 2)
    with Injection(stage_c, [Layer(one, 0.4), Layer(other, 0.8)]):
        both = predict(stage_c)
    torch.testing.assert_close(both, predict(by_hand(stage_c, (one, 0.4), (other, 0.8))), rtol=1e-5, atol=1e-5)
    with Injection(stage_c, [Layer(other, 0.8), Layer(one, 0.4)]):
        torch.testing.assert_close(predict(stage_c), both, rtol=1e-5, atol=1e-5)
    with Injection(stage_c, [Layer(one, 0.5), Layer(one, -0.5)]):
        cancelled = predict(stage_c)
    torch.testing.assert_close(cancelled, predict(stage_c), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_range_of_the_steps(stage_c: nn.Module, predict: Predict, trained: Callable[..., Deltas]) -> None:
    early, whole = trained(stage_c, seed=1), trained(stage_c, seed=2)
    both, alone = (predict(by_hand(stage_c, *layers)) for layers in ([(early, 1.0), (whole, 1.0)], [(whole, 1.0)]))
    seen: list[int] = []
    with Injection(stage_c, [Layer(early, 1.0, (0.0, 0.5)), Layer(whole)]) as injection:
        step = injection.watch(lambda number, steps, x0: seen.append(number))
        for number in range(1, 5):  # four steps: the first two are the first half
            expected = both if number <= 2 else alone
            torch.testing.assert_close(predict(stage_c), expected, rtol=1e-5, atol=1e-5)
            step(number, 4, torch.empty(0))
    assert seen == [1, 2, 3, 4]


@torch.no_grad()
def test_a_divided_stream(stage_c: nn.Module, kind: str, predict: Predict, trained: Callable[..., Deltas]) -> None:
    deltas = trained(stage_c, kind, filters=EVERYTHING)
    with Injection(stage_c, [Layer(deltas, 0.7)]):
        whole = predict(stage_c)
    factors, _ = stage_c.divide_stream(8.0)
    for name, factor in factors.items():
        stage_c.get_parameter(name).mul_(factor)
    with Injection(stage_c, [Layer(deltas, 0.7)]):
        torch.testing.assert_close(predict(stage_c), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_changes_begin_with_nothing_beside_a_divided_stream(stage_c: nn.Module, kind: str, predict: Predict) -> None:
    factors, _ = stage_c.divide_stream(8.0)
    for name, factor in factors.items():
        stage_c.get_parameter(name).mul_(factor)
    before = predict(stage_c)
    deltas = Deltas.create(stage_c, EVERYTHING, kind=kind, rank=2, generator=torch.Generator().manual_seed(0))
    with Injection(stage_c, [Layer(deltas)]):
        torch.testing.assert_close(predict(stage_c), before, rtol=0, atol=1e-5)


def test_only_the_changes_learn(stage_c: nn.Module, predict: Predict, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = Deltas.create(stage_c, kind=kind, rank=2, dropout=0.1, generator=generator)
    before = {name: parameter.clone() for name, parameter in stage_c.named_parameters()}
    target = predict(stage_c) + 0.1
    optimizer = torch.optim.Adam(deltas.parameters(), lr=2e-3)
    losses: list[float] = []
    stage_c.checkpointing = True  # the backward pass runs the blocks, and their hooks, again
    injection = Injection(stage_c, [Layer(deltas)])
    for _ in range(12):
        loss = (predict(stage_c) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    injection.remove()
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(parameter, before[name]) for name, parameter in stage_c.named_parameters())
    assert all(parameter.grad is None for parameter in stage_c.parameters())


def test_the_path_builds_no_matrix(stage_c: nn.Module, predict: Predict) -> None:
    """Nothing as large as a weight is kept for the backward pass but the weights themselves."""
    deltas = Deltas.create(stage_c, rank=2)
    shapes = {site.shape for site in select(stage_c, ["in_proj"]).values()}
    weights = {parameter.data_ptr() for parameter in stage_c.parameters()}
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.append(tuple(tensor.shape))
        return tensor

    with Injection(stage_c, [Layer(deltas)]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        predict(stage_c)
    assert kept
    assert not {shape for shape in kept if shape in shapes or shape[::-1] in shapes}


@torch.no_grad()
def test_merged_weights(stage_c: nn.Module, kind: str, trained: Callable[..., Deltas]) -> None:
    deltas = trained(stage_c, kind, filters=("attn.in_proj", "clf"))
    half = {name: tensor.to(torch.bfloat16) for name, tensor in stage_c.state_dict().items()}
    merged = merge(half, stage_c, [Layer(deltas, 0.5)])
    changed = {sites(stage_c)[name].parameter: delta for name, delta in deltas.by_site.items()}
    for name, tensor in half.items():
        expected = tensor
        if name in changed:
            matrix = tensor.float().flatten(1)
            expected = (matrix + 0.5 * changed[name].matrix(matrix)).view(tensor.shape).to(torch.bfloat16)
        assert torch.equal(merged[name], expected)
    assert len(changed) > 1


@pytest.mark.parametrize(("size", "layers", "width"), [("lite", 64, 1536), ("full", 128, 2048)])
def test_the_official_modules_in_the_official_order(size: str, layers: int, width: int) -> None:
    with torch.device("meta"):
        from littlecascade.models.stage_c import StageC

        chosen = select(StageC(PRESETS[size].stage_c))
    assert len(chosen) == layers
    names = list(chosen)
    start = "down_blocks.0.2.attention.attn"
    assert names[:3] == [f"{start}.out_proj", f"{start}.in_proj", "down_blocks.0.5.attention.attn.out_proj"]
    assert names[-1] == f"up_blocks.1.{3 * layers // 16 - 1}.attention.attn.in_proj"
    assert [site.shape for site in chosen.values()] == [(width, width), (3 * width, width)] * (layers // 2)


def test_the_order_is_that_of_torchs_parametrised_modules() -> None:
    """The official code parametrises torch's attention, and saves what `modules()` finds then."""
    from torch.nn.utils import parametrize

    from littlecascade.nn.blocks import AttentionBlock

    theirs = nn.ModuleDict({"attention": nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)})})
    modules = dict(theirs.named_modules())
    for name, weight in (("attention.attn", "in_proj_weight"), ("attention.attn.out_proj", "weight")):
        parametrize.register_parametrization(modules[name], weight, nn.Identity())
    found = [name for name, module in theirs.named_modules() if isinstance(module, parametrize.ParametrizationList)]
    expected = [name.replace("parametrizations.", "").replace("_weight", "").replace(".weight", "") for name in found]
    assert list(select(AttentionBlock(8, 8, 2))) == expected


def test_mistakes_are_told(stage_c: nn.Module, stage_b: nn.Module, trained: Callable[..., Deltas]) -> None:
    for filters, wrong in ((".atn", "Filter '.atn' is in the name of no module"), ("re:(", "no regular expression")):
        with pytest.raises(InputError, match=wrong.replace("(", r"\(")) as caught:
            Deltas.create(stage_c, [filters])
        assert filters == "re:(" or "down_blocks.0" in str(caught.value)
    with pytest.raises(InputError, match="rank 0 changes nothing"):
        Deltas.create(stage_c, rank=0)
    with pytest.raises(InputError, match="'lokr'"):
        Deltas.create(stage_c, kind="lork")
    with pytest.raises(InputError, match="dropout"):
        Deltas.create(stage_c, dropout=1.0)
    with pytest.raises(InputError, match="StageB has no down_blocks"):
        Injection(stage_b, [Layer(trained(stage_c))])
    assert set(select(stage_c, [r"re:down.*attn\.out"])) < set(select(stage_c, [".attn"]))
