"""Stage B and Stage C against diffusers' `StableCascadeUNet`, with the same random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from littlecascade.errors import InputError
from littlecascade.models.config import StageBConfig, StageCConfig, TrunkConfig
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.models.trunk import Trunk
from littlecascade.presets import PRESETS

BLOCKS = {"C": "SDCascadeResBlock", "T": "SDCascadeTimestepBlock", "A": "SDCascadeAttnBlock"}

STAGE_C = StageCConfig(
    TrunkConfig(
        in_channels=16,
        out_channels=16,
        patch=1,
        cond_width=24,
        widths=(32, 32),
        heads=(2, 4),
        down_depths=(1, 2),
        up_depths=(2, 1),
        down_repeats=(1, 1),
        up_repeats=(1, 1),
        layouts=("CTA", "CTA"),
        dropout=(0.1, 0.1),
        switch_level=(False,),
    ),
    text_width=20,
    pooled_width=12,
    image_width=8,
)

STAGE_B = StageBConfig(
    TrunkConfig(
        in_channels=4,
        out_channels=4,
        patch=2,
        cond_width=24,
        widths=(16, 24, 32),
        heads=(0, 2, 4),
        down_depths=(1, 2, 2),
        up_depths=(2, 3, 1),
        down_repeats=(1, 2, 1),
        up_repeats=(3, 2, 2),
        layouts=("CT", "CTA", "CTA"),
        dropout=(0.0, 0.0, 0.1),
        time_conditions=("sca",),
    ),
    pooled_width=12,
)


def with_trunk(config, **changes):
    return replace(config, trunk=replace(config.trunk, **changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(model: Trunk, seed: int = 0) -> Trunk:
    """Every weight, those that start at zero too, drawn so that the stream keeps about unit variance."""
    draw = generator(seed)
    model.initialise(draw)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


def reference_arguments(config: StageBConfig | StageCConfig) -> dict:
    trunk = config.trunk
    arguments = {
        "in_channels": trunk.in_channels,
        "out_channels": trunk.out_channels,
        "timestep_ratio_embedding_dim": trunk.time_width,
        "patch_size": trunk.patch,
        "conditioning_dim": trunk.cond_width,
        "block_out_channels": trunk.widths,
        "num_attention_heads": trunk.heads,
        "down_num_layers_per_block": trunk.down_depths,
        "up_num_layers_per_block": trunk.up_depths,
        "down_blocks_repeat_mappers": trunk.down_repeats,
        "up_blocks_repeat_mappers": trunk.up_repeats,
        "block_types_per_layer": [[BLOCKS[letter] for letter in layout] for layout in trunk.layouts],
        "clip_text_pooled_in_channels": config.pooled_width,
        "clip_seq": config.tokens_per_vector,
        "kernel_size": trunk.kernel,
        "dropout": trunk.dropout,
        "self_attn": trunk.self_attention,
        "timestep_conditioning_type": trunk.time_conditions,
        "switch_level": trunk.switch_level,
    }
    if isinstance(config, StageCConfig):
        return arguments | {"clip_text_in_channels": config.text_width, "clip_image_in_channels": config.image_width}
    return arguments | {
        "effnet_in_channels": config.effnet_channels,
        "pixel_mapper_in_channels": config.pixel_channels,
    }


def reference_of(model: StageB | StageC):
    """diffusers' network with the weights of `model`, through diffusers' converter of official files."""
    from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers
    from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet

    reference = StableCascadeUNet(**reference_arguments(model.config))
    reference.load_state_dict(convert_stable_cascade_unet_single_file_to_diffusers(model.state_dict()))
    return reference.eval()


def one_by_one(reference, x: Tensor, time: Tensor, **conditions: Tensor) -> Tensor:
    """diffusers takes `sca` and `crp` for a single picture only, so each picture goes alone."""
    return torch.cat(
        [
            reference(x[i : i + 1], time[i : i + 1], **{k: v[i : i + 1] for k, v in conditions.items()}).sample
            for i in range(len(x))
        ]
    )


def assert_equal(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    assert theirs.std() > 0.01
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


def inputs_c(config: StageCConfig, batch: int, size: tuple[int, int], text_tokens: int = 7) -> dict[str, Tensor]:
    draw = generator(1)
    return {
        "x": torch.randn(batch, config.trunk.in_channels, *size, generator=draw),
        "time": torch.rand(batch, generator=draw),
        "text": torch.randn(batch, text_tokens, config.text_width, generator=draw),
        "pooled": torch.randn(batch, 1, config.pooled_width, generator=draw),
        "image": torch.randn(batch, 1, config.image_width, generator=draw),
        "sca": torch.rand(batch, generator=draw) + 0.1,
        "crp": torch.rand(batch, generator=draw) + 0.1,
    }


def inputs_b(config: StageBConfig, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    draw = generator(2)
    return {
        "x": torch.randn(batch, config.trunk.in_channels, *size, generator=draw),
        "time": torch.rand(batch, generator=draw),
        "effnet": torch.randn(batch, config.effnet_channels, 3, 5, generator=draw),
        "pooled": torch.randn(batch, 1, config.pooled_width, generator=draw),
        "pixels": torch.rand(batch, config.pixel_channels, 9, 6, generator=draw),
        "sca": torch.rand(batch, generator=draw) + 0.1,
    }


def run_c(model: StageC, given: dict[str, Tensor], **more) -> Tensor:
    conditions = model.encode_conditions(given["text"], given["pooled"], given["image"])
    return model(given["x"], given["time"], **conditions, sca=given["sca"], crp=given["crp"], **more)


def run_b(model: StageB, given: dict[str, Tensor], **more) -> Tensor:
    size = (given["x"].shape[2], given["x"].shape[3])
    conditions = model.encode_conditions(given["effnet"], given["pooled"], given["pixels"], size=size)
    return model(given["x"], given["time"], **conditions, sca=given["sca"], **more)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"switch_level": (True,)},
        {"switch_level": None, "widths": (16, 32)},
        {"layouts": ("CT", "CTA"), "self_attention": False, "kernel": 5},
    ],
)
def test_stage_c_equals_diffusers(batch: int, size: tuple[int, int], changes: dict) -> None:
    config = with_trunk(STAGE_C, **changes)
    model = randomise(StageC(config))
    given = inputs_c(config, batch, size)
    theirs = one_by_one(
        reference_of(model),
        given["x"],
        given["time"],
        clip_text=given["text"],
        clip_text_pooled=given["pooled"],
        clip_img=given["image"],
        sca=given["sca"],
        crp=given["crp"],
    )
    assert_equal(run_c(model, given), theirs)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (18, 22)])  # 18 / 2 = 9, then 4: maps that do not halve evenly
@pytest.mark.parametrize("changes", [{}, {"switch_level": (False, True)}, {"patch": 1}])
def test_stage_b_equals_diffusers(batch: int, size: tuple[int, int], changes: dict) -> None:
    config = with_trunk(STAGE_B, **changes)
    model = randomise(StageB(config))
    given = inputs_b(config, batch, size)
    theirs = one_by_one(
        reference_of(model),
        given["x"],
        given["time"],
        clip_text_pooled=given["pooled"],
        effnet=given["effnet"],
        pixels=given["pixels"],
        sca=given["sca"],
    )
    assert_equal(run_b(model, given), theirs)


@torch.no_grad()
def test_what_is_not_given_counts_as_zeros() -> None:
    model, given = randomise(StageC(STAGE_C)), inputs_c(STAGE_C, 2, (4, 4))
    theirs = reference_of(model)(
        given["x"],
        given["time"],
        clip_text=given["text"],
        clip_text_pooled=torch.zeros_like(given["pooled"]),
        clip_img=torch.zeros_like(given["image"]),
    ).sample
    assert_equal(model(given["x"], given["time"], **model.encode_conditions(given["text"])), theirs)

    model, given = randomise(StageB(STAGE_B)), inputs_b(STAGE_B, 2, (16, 16))
    theirs = reference_of(model)(
        given["x"],
        given["time"],
        clip_text_pooled=torch.zeros_like(given["pooled"]),
        effnet=given["effnet"],
    ).sample
    conditions = model.encode_conditions(given["effnet"], size=(16, 16))
    assert_equal(model(given["x"], given["time"], **conditions), theirs)


@torch.no_grad()
@pytest.mark.parametrize("stage", ["c", "b"])
def test_control_residuals_enter_before_the_res_blocks_in_order_of_visit(stage: str) -> None:
    if stage == "c":
        model, given = randomise(StageC(STAGE_C)), inputs_c(STAGE_C, 2, (5, 7))
        conditions = {"clip_text": given["text"], "clip_text_pooled": given["pooled"], "clip_img": given["image"]}
        widths = {0: 32, 2: 32, 3: 32, 5: 32}  # first and last visit; 3 is the first of the way up
        run = run_c
    else:
        model, given = randomise(StageB(STAGE_B)), inputs_b(STAGE_B, 2, (18, 22))
        conditions = {"effnet": given["effnet"], "clip_text_pooled": given["pooled"], "pixels": given["pixels"]}
        widths = {0: 16, 3: 24, 6: 32, 8: 32, 13: 24}  # 3: the repeat of level 1; 7 on: the way up
        run = run_b
    draw = generator(3)
    control = {number: torch.randn(2, width, 4, 3, generator=draw) for number, width in widths.items()}

    reference, used = reference_of(model), set()
    visit = iter(range(1000))

    def add(module, arguments):
        number = next(visit)
        if number not in control:
            return None
        used.add(number)
        x = arguments[0]
        residual = F.interpolate(control[number], x.shape[-2:], mode="bilinear", align_corners=True)
        return x + residual, *arguments[1:]

    for module in reference.modules():
        if type(module).__name__ == BLOCKS["C"]:
            module.register_forward_pre_hook(add)
    given["sca"], given["crp"] = torch.zeros(2), torch.zeros(2)
    theirs = reference(given["x"], given["time"], **conditions).sample
    assert used == set(control)
    ours = run(model, given, control=control)
    assert_equal(ours, theirs)
    assert not torch.allclose(ours, run(model, given), atol=1e-3)


@torch.no_grad()
def test_sides_that_the_patch_does_not_divide_are_padded_and_cropped() -> None:
    model, given = randomise(StageB(STAGE_B)), inputs_b(STAGE_B, 2, (15, 17))
    ours = run_b(model, given)
    padded = run_b(model, given | {"x": F.pad(given["x"], (0, 1, 0, 1), mode="replicate")})
    assert ours.shape == (2, 4, 15, 17)
    assert torch.equal(ours, padded[:, :, :15, :17])


@torch.no_grad()
def test_the_smallest_latents_run_and_smaller_ones_are_an_error() -> None:
    for model, run, inputs, smallest in (
        (randomise(StageC(STAGE_C)), run_c, inputs_c, 1),
        (randomise(StageB(STAGE_B)), run_b, inputs_b, 7),
    ):
        assert model.smallest_side == smallest
        assert run(model, inputs(model.config, 1, (smallest, smallest))).isfinite().all()
    with pytest.raises(InputError, match="Latents of 20 x 6 are too small for StageB: each side needs 7 or more"):
        run_b(model, inputs_b(STAGE_B, 1, (20, 6)))


@torch.no_grad()
def test_a_picture_is_the_same_alone_and_in_a_batch() -> None:
    model, given = randomise(StageB(STAGE_B)), inputs_b(STAGE_B, 3, (16, 16))
    together = run_b(model, given)
    alone = torch.cat([run_b(model, {k: v[i : i + 1] for k, v in given.items()}) for i in range(3)])
    assert_equal(together, alone)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.003)])
def test_half_precision_runs_without_autocast(dtype: torch.dtype, bound: float) -> None:
    """Time and latents stay in float32 outside; the relative error measured over seeds is 0.009 to 0.014 for
    bfloat16 and 0.0012 to 0.0014 for float16, a few roundings of either.
    """
    for make, inputs, run, size in (
        (lambda: StageC(STAGE_C), lambda s: inputs_c(STAGE_C, 2, s), run_c, (5, 7)),
        (lambda: StageB(STAGE_B), lambda s: inputs_b(STAGE_B, 2, s), run_b, (18, 22)),
    ):
        exact, half, given = randomise(make()), randomise(make()).to(dtype), inputs(size)
        expected, got = run(exact, given), run(half, given)
        assert got.dtype == torch.float32
        assert (got - expected).norm() / expected.norm() < bound


@torch.no_grad()
def test_time_is_embedded_in_float32() -> None:
    """In bfloat16, 0.9999 * 10000 would become 9984 and the sines anything."""
    model = StageC(STAGE_C).bfloat16()
    time = torch.tensor([0.9999, 0.1234])
    expected = StageC(STAGE_C).embed_times(time).bfloat16()
    assert torch.equal(model.embed_times(time), expected)


@pytest.mark.parametrize("stage", ["c", "b"])
def test_every_weight_gets_a_gradient_and_checkpointing_the_same(stage: str) -> None:
    if stage == "c":
        model, given, run = randomise(StageC(STAGE_C)), inputs_c(STAGE_C, 2, (5, 7)), run_c
    else:
        model, given, run = randomise(StageB(STAGE_B)), inputs_b(STAGE_B, 2, (18, 22)), run_b

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        run(model, given).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    model.checkpointing = True
    again = gradients()
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("stage", ["c", "b"])
def test_checkpointing_changes_no_bit_of_a_gradient_with_dropout(stage: str) -> None:
    if stage == "c":
        model, run = randomise(StageC(with_trunk(STAGE_C, dropout=(0.5, 0.5)))).train(), run_c
        given = inputs_c(STAGE_C, 2, (4, 4))
    else:
        levels = len(STAGE_B.trunk.widths)
        model, run = randomise(StageB(with_trunk(STAGE_B, dropout=(0.5,) * levels))).train(), run_b
        given = inputs_b(STAGE_B, 2, (18, 22))

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        torch.manual_seed(5)
        model.checkpointing = checkpointing
        model.zero_grad()
        run(model, given).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain, again = gradients(False), gradients(True)
    assert [name for name, gradient in plain.items() if not torch.equal(again[name], gradient)] == []


def test_only_blocks_that_a_gradient_flows_into_are_recomputed() -> None:
    """As in a frozen trunk with an adapter in one of its blocks; with it those since the last res block."""
    model = randomise(StageC(STAGE_C)).requires_grad_(False)
    model.checkpointing = True
    blocks = [block for level in (*model.down_blocks, *model.up_blocks) for block in level]
    adapted = len(blocks) - 4
    blocks[adapted].requires_grad_(True)
    calls: list[int] = []
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    prediction = run_c(model, inputs_c(STAGE_C, 2, (4, 4)))
    forward = len(calls)
    prediction.square().mean().backward()
    first = max(number for number in range(adapted + 1) if blocks[number].controllable)
    assert 0 < first < adapted
    assert set(calls[forward:]) == set(range(first, len(blocks)))


def test_initialise_is_reproducible_and_starts_at_zero_prediction() -> None:
    first, second = StageB(STAGE_B), StageB(STAGE_B)
    first.initialise(generator(7))
    torch.manual_seed(123)
    second.initialise(generator(7))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert run_b(first, inputs_b(STAGE_B, 1, (16, 16))).abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("depths", [(1, 2), (4, 12)])
def test_initialise_keeps_the_stream_in_bounds_at_any_depth(depths: tuple[int, int]) -> None:
    config = with_trunk(STAGE_C, down_depths=depths, up_depths=depths[::-1])
    model = StageC(config).eval()
    model.initialise(generator())
    seen: list[Tensor] = []
    model.clf.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    run_c(model, inputs_c(config, 2, (8, 8)))
    assert 0.5 < seen[0].std() < 5


def test_training_from_scratch_learns() -> None:
    """Thirty steps on one batch: every branch opens from its zero start, and the loss falls well below its start."""
    model = StageC(with_trunk(STAGE_C, dropout=(0.0, 0.0)))
    model.initialise(generator())
    given = inputs_c(STAGE_C, 4, (4, 4))
    target = torch.randn(4, 16, 4, 4, generator=generator(9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(run_c(model, given), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3


def test_a_condition_that_the_network_does_not_take_is_an_error() -> None:
    model = StageC(with_trunk(STAGE_C, time_conditions=("sca",)))
    given = inputs_c(STAGE_C, 1, (4, 4))
    with pytest.raises(ValueError, match="takes no 'crp'; it takes sca"):
        run_c(model, given)


COUNTS = {
    ("full", "stage_c"): (3_589_103_632, 1294),
    ("lite", "stage_c"): (1_030_785_040, 654),
    ("full", "stage_b"): (1_562_941_136, 1454),
    ("lite", "stage_b"): (699_471_248, 826),
}
STAGES = {"stage_b": StageB, "stage_c": StageC}


def on_meta(size: str, stage: str) -> StageB | StageC:
    with torch.device("meta"):
        return STAGES[stage](getattr(PRESETS[size], stage))


@pytest.mark.parametrize(("size", "stage"), COUNTS)
def test_full_size_networks_have_the_official_tensors(size: str, stage: str, golden_keys) -> None:
    tensors = on_meta(size, stage).state_dict()
    golden_keys(f"{stage}_{size}", tensors)
    assert (sum(tensor.numel() for tensor in tensors.values()), len(tensors)) == COUNTS[size, stage]


@pytest.mark.parametrize(("size", "stage"), COUNTS)
def test_full_size_networks_convert_to_what_diffusers_expects(size: str, stage: str) -> None:
    from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers
    from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet

    model = on_meta(size, stage)
    with torch.device("meta"):
        reference = StableCascadeUNet(**reference_arguments(model.config))
    converted = convert_stable_cascade_unet_single_file_to_diffusers(model.state_dict())
    expected = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == expected
