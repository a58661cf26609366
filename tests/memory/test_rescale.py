"""Dividing the residual stream changes nothing in float32, and keeps float16 finite where streams reach ten million."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from littlecascade.errors import InputError
from littlecascade.memory import rescale
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.nn.blocks import AttentionBlock, ResBlock
from littlecascade.presets import TINY

TRUNK = replace(
    TINY.stage_c.trunk,
    widths=(64, 128),
    heads=(1, 2),
    cond_width=64,
    down_depths=(2, 2),
    up_depths=(2, 2),
    down_repeats=(1, 2),
    up_repeats=(2, 1),
    time_conditions=("sca", "crp"),
)
STAGE_C = replace(TINY.stage_c, trunk=TRUNK, text_width=32, pooled_width=32, image_width=32)
DECODER = replace(TINY.stage_b.trunk, widths=(32, 64, 64), heads=(0, 1, 2), cond_width=64, up_repeats=(2, 2, 1))
STAGE_B = replace(TINY.stage_b, trunk=DECODER, pooled_width=32)
KINDS = pytest.mark.parametrize("kind", ["c", "switched c", "b"])


def network(kind: str) -> StageB | StageC:
    """Made-up weights, none of them zero."""
    switched = replace(STAGE_C, trunk=replace(TRUNK, switch_level=None))
    made = StageB(STAGE_B) if kind == "b" else StageC(switched if kind == "c" else STAGE_C)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    return made.eval().requires_grad_(False)


def hot(kind: str) -> StageB | StageC:
    """A network whose stream reaches ten million, since its blocks add so much; those with a skip read that much."""
    gain = 1e7
    while True:
        made = network(kind)
        for block in made.modules():
            if isinstance(block, ResBlock) and not block.skip_width:
                block.channelwise[4].weight.mul_(gain)
            elif isinstance(block, AttentionBlock):
                block.attention.attn.out_proj.weight.mul_(gain)
        if rescale.stream_peak(made) < 3e7:
            return made
        gain /= 2


def prediction(made: StageB | StageC, **options: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator)

    time = torch.tensor([0.9, 0.3])
    if isinstance(made, StageB):
        conditions = made.encode_conditions(normal(16, 3, 4), normal(1, 32), normal(3, 8, 8), size=(20, 28))
        return made(normal(4, 20, 28), time, **conditions, **options)
    conditions = made.encode_conditions(normal(7, 32), normal(1, 32), normal(1, 32))
    return made(normal(16, 6, 9), time, **conditions, sca=torch.ones(2), **options)


def built(source: StageB | StageC, divisor: float, dtype: torch.dtype) -> StageB | StageC:
    copy = type(source)(source.config)
    factors, wide = copy.divide_stream(divisor)
    weights = rescale.divided(source.state_dict(), factors)
    tensors = {name: make().to(torch.float32 if name in wide else dtype) for name, make in weights.items()}
    copy.load_state_dict(tensors, assign=True)
    return copy.eval().requires_grad_(False)


def off(one: Tensor, other: Tensor) -> float:
    """The largest difference, in deviations of the second."""
    return float(((one.float() - other).abs().max() / other.std()).detach())


@KINDS
def test_a_divided_stream_changes_nothing(kind: str) -> None:
    whole = network(kind)
    width = whole.trunk_config.widths[0]
    control = {0: torch.randn(2, width, 3, 3)}
    divided = built(whole, 2.0**8, torch.float32)
    assert off(prediction(divided, control=control), prediction(whole, control=control)) < 1e-5
    assert rescale.stream_peak(divided) * 2**8 == pytest.approx(rescale.stream_peak(whole), rel=1e-4)


@KINDS
def test_every_part_of_the_division_is_needed(kind: str) -> None:
    """Leaving any of it out is seen, so the test above can fail."""
    whole = network(kind)
    for left_out in sorted({name.split(".")[-2] for name in type(whole)(whole.config).divide_stream(2.0).factors}):
        copy = type(whole)(whole.config)
        factors, _ = copy.divide_stream(2.0**8)
        kept = {name: factor for name, factor in factors.items() if name.split(".")[-2] != left_out}
        copy.load_state_dict({name: make() for name, make in rescale.divided(whole.state_dict(), kept).items()})
        assert off(prediction(copy.eval().requires_grad_(False)), prediction(whole)) > 1e-4, left_out


@KINDS
def test_float16_stays_finite_and_near_where_the_stream_reaches_ten_million(kind: str) -> None:
    whole = hot(kind)
    assert rescale.stream_peak(whole) > 1e7
    plain = built(whole, 1.0, torch.float16)
    assert not prediction(plain).isfinite().all()  # which is why it is divided
    fitted = rescale.fit(lambda divisor: built(whole, divisor, torch.float16))
    assert fitted.divisor > 1024
    expected = prediction(whole)
    error = prediction(fitted).float() - expected
    assert float(error.norm() / expected.norm()) < 5e-3


@KINDS
def test_gradients_of_a_network_divided_in_place_are_those_of_the_whole_one(kind: str) -> None:
    """Times the factors of the weights, by the chain rule."""
    whole, copy = hot(kind).requires_grad_(True), hot(kind).requires_grad_(True)
    factors = rescale.divide(copy)
    assert copy.divisor > 1024
    assert off(prediction(copy), prediction(whole)) < 1e-5
    for made in (whole, copy):
        prediction(made).square().mean().backward()
    for name, parameter in whole.named_parameters():
        own = copy.get_parameter(name).grad * factors.get(name, 1.0)
        assert float((own - parameter.grad).norm() / parameter.grad.norm()) < 1e-4, name


@KINDS
def test_a_division_is_taken_back(kind: str) -> None:
    made = hot(kind)
    weights = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    before = prediction(made)
    rescale.divide(made)
    rescale.undivide(made)
    made.load_state_dict(weights)
    assert torch.equal(prediction(made), before)


def test_a_network_that_needs_no_division_is_left_as_it_was() -> None:
    made = network("c").half()
    weights = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert rescale.divide(made) == {}
    assert made.divisor == 1
    for name, tensor in made.state_dict().items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, weights[name])


def test_the_divisor_is_as_small_as_it_can_be() -> None:
    tried: list[float] = []

    def build(divisor: float) -> StageB | StageC:
        tried.append(divisor)
        return built(network("c"), divisor, torch.float32)

    assert rescale.fit(build).divisor == 1
    assert tried == [rescale.TRIAL, 1]


def test_what_no_divisor_helps_is_told() -> None:
    broken = network("c")
    broken.get_parameter("clf.1.weight").fill_(1e5)
    with pytest.raises(InputError, match=r"float16 can't hold what StageC computes .* use precision bfloat16"):
        rescale.fit(lambda divisor: built(broken, divisor, torch.float16))


def test_blocks_that_read_a_skip_compute_in_float32() -> None:
    divided = built(network("b"), 4.0, torch.float16)
    wide = [block for block in divided.modules() if isinstance(block, ResBlock) and block.wide]
    assert len(wide) == 2  # of three levels, the first on the way up has no skip
    for block in wide:
        assert {parameter.dtype for parameter in block.channelwise.parameters()} == {torch.float32}
