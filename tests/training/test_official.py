"""The official release's training configurations, and the single-GPU fork's two: they load as they stand, and ours of
the same names say the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig, StageBRun, StageCRun
from littlecascade.training.config_adapters import ControlNetRun, LoraRun
from littlecascade.training.config_file import load_config
from littlecascade.training.run import TASKS

CONFIGS = Path(__file__).parents[2] / "configs" / "training"

# The files' own text without comments, what many of them have in common written once.
SHARED = """
checkpoint_path: /path/to/checkpoint
output_path: /path/to/output
wandb_project: StableCascade
wandb_entity: wandb_username
lr: 1.0e-4
grad_accum_steps: 1
save_every: 1000
warmup_updates: 1
use_fsdp: True
webdataset_path:
  - s3://path/to/your/first/dataset/on/s3
  - s3://path/to/your/second/dataset/on/s3
effnet_checkpoint_path: models/effnet_encoder.safetensors
"""
STAGE_C = """
model_version: 3.6B
image_size: 768
save_every: 2000
backup_every: 20000
updates: 100000
previewer_checkpoint_path: models/previewer.safetensors
generator_checkpoint_path: models/stage_c_bf16.safetensors
"""
CONTROL = """
batch_size: 256
updates: 10000
backup_every: 2000
save_every: 1000
controlnet_blocks: [0, 4, 8, 12, 51, 55, 59, 63]
captions_getter: ['txt', identity]
dataset_filters:
  - ['width', 'lambda w: w >= 768']
  - ['height', 'lambda h: h >= 768']
"""
RATIOS = "multi_aspect_ratio: [1/1, 1/2, 1/3, 2/3, 3/4, 1/5, 2/5, 3/5, 4/5, 1/6, 5/6, 9/16]\n"
FORK = """
experiment_id: my_experiment
checkpoint_path: checkpoints
output_path: outputs
model_version: 1B
lr: 1.0e-3
batch_size: 1
image_size: 256
use_fsdp: False
module_filters: ['.attn']
rank: 4
train_tokens:
  - ['postapocalyptic', null]
  - ['^city', null]
ema_start_iters: 5000
ema_iters: 100
ema_beta: 0.9
webdataset_path: file:dataset/output.tar
previewer_checkpoint_path: models/previewer.safetensors
generator_checkpoint_path: models/stage_c_lite.safetensors
"""
STAGE_B = """
image_size: 1024
shift: 4
adaptive_loss_weight: True
backup_every: 20000
stage_a_checkpoint_path: models/stage_a.safetensors
"""

OFFICIAL: dict[str, tuple[type[RunConfig], list[str]]] = {
    "controlnet_c_3b_canny": (
        ControlNetRun,
        [
            *(STAGE_C, CONTROL),
            "experiment_id: stage_c_3b_controlnet_canny\n"
            "controlnet_filter: CannyFilter\ncontrolnet_filter_params: \n  resize: 224\n",
        ],
    ),
    "controlnet_c_3b_identity": (
        ControlNetRun,
        [
            *(STAGE_C, CONTROL),
            "experiment_id: stage_c_3b_controlnet_identity\nupdates: 200000\ncontrolnet_bottleneck_mode: 'simple'\n"
            f"controlnet_blocks: {list(range(64))}\ncontrolnet_filter: IdentityFilter\n"
            "controlnet_filter_params: \n  max_faces: 4\n  p_drop: 0.05\n  p_full: 0.3\n",
        ],
    ),
    "controlnet_c_3b_inpainting": (
        ControlNetRun,
        [
            *(STAGE_C, CONTROL),
            "experiment_id: stage_c_3b_controlnet_inpainting\ncontrolnet_filter: InpaintFilter\n"
            "controlnet_filter_params: \n  thresold: [0.04, 0.4]\n  p_outpaint: 0.4\noffset_noise: 0.1\n",
        ],
    ),
    "controlnet_c_3b_sr": (
        ControlNetRun,
        [
            *(STAGE_C, CONTROL),
            "experiment_id: stage_c_3b_controlnet_sr\nupdates: 30000\nbackup_every: 5000\n"
            "controlnet_bottleneck_mode: 'large'\ncontrolnet_filter: SREffnetFilter\n"
            "controlnet_filter_params: \n  scale_factor: 0.5\noffset_noise: 0.1\n",
        ],
    ),
    "finetune_b_3b": (
        StageBRun,
        [
            STAGE_B,
            "experiment_id: stage_b_3b_finetuning\nmodel_version: 3B\nbatch_size: 256\nupdates: 100000\n"
            "generator_checkpoint_path: models/stage_b_bf16.safetensors\n",
        ],
    ),
    "finetune_b_700m": (
        StageBRun,
        [
            STAGE_B,
            "experiment_id: stage_b_700m_finetuning\nmodel_version: 700M\nbatch_size: 512\nupdates: 10000\n"
            "save_every: 2000\ngenerator_checkpoint_path: models/stage_b_lite_bf16.safetensors\n",
        ],
    ),
    "finetune_c_1b": (
        StageCRun,
        [
            STAGE_C,
            "experiment_id: stage_c_1b_finetuning\nmodel_version: 1B\nbatch_size: 1024\nupdates: 10000\n"
            "generator_checkpoint_path: models/stage_c_lite_bf16.safetensors\n",
        ],
    ),
    "finetune_c_3b": (
        StageCRun,
        [STAGE_C, RATIOS, "experiment_id: stage_c_3b_finetuning\nbatch_size: 512\nadaptive_loss_weight: True\n"],
    ),
    "finetune_c_3b_lora": (
        LoraRun,
        [
            *(STAGE_C, RATIOS),
            "experiment_id: stage_c_3b_lora\nbatch_size: 32\ngrad_accum_steps: 4\nupdates: 10000\nbackup_every: 1000\n"
            "save_every: 100\nuse_fsdp: False\nmodule_filters: ['.attn']\nrank: 4\n"
            "train_tokens:\n  - ['[fernando]', '^dog</w>']\n",
        ],
    ),
    "finetune_c_3b_lowres": (
        StageCRun,
        [
            *(STAGE_C, RATIOS),
            "experiment_id: stage_c_3b_finetuning\nbatch_size: 1024\nimage_size: 384\nadaptive_loss_weight: True\n",
        ],
    ),
    "finetune_c_3b_v": (
        StageCRun,
        [
            *(STAGE_C, RATIOS),
            "experiment_id: stage_c_3b_finetuning\nbatch_size: 512\nadaptive_loss_weight: True\nedm_objective: True\n",
        ],
    ),
    "finetune_c_1b_lora_dry_run": (LoraRun, [FORK, "updates: 100\nbackup_every: 50\nsave_every: 10\n"]),
    "finetune_c_1b_lora_10h_training": (LoraRun, [FORK, "updates: 5000\nbackup_every: 500\nsave_every: 100\n"]),
}


def official(name: str) -> dict[str, Any]:
    """The keys and values of an official file."""
    pieces = [yaml.safe_load(text) for text in (SHARED, *OFFICIAL[name][1])]
    return {key: value for piece in pieces for key, value in piece.items()}


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_file_loads_as_it_stands(name: str, tmp_path: Path) -> None:
    path, values = tmp_path / f"{name}.yaml", official(name)
    path.write_text(yaml.safe_dump(values), "utf-8")
    config = load_config(OFFICIAL[name][0], path).model_dump(mode="json")
    assert {key: config[key] for key in values} == values


@pytest.mark.parametrize("name", OFFICIAL)
def test_ours_says_the_same_and_no_more(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    assert yaml.safe_load(path.read_text("utf-8")) == official(name)
    load_config(OFFICIAL[name][0], path)


def test_there_are_no_others_but_ours() -> None:
    ours = {"lora_tiny"}
    assert {path.stem for path in CONFIGS.iterdir()} == set(OFFICIAL) | ours


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_file_is_of_one_kind_alone(name: str) -> None:
    kinds = {LoraRun, ControlNetRun, *(entry.config for entry in TASKS.values())}

    def loads(kind: type[RunConfig]) -> bool:
        try:
            load_config(kind, CONFIGS / f"{name}.yaml")
        except InputError:
            return False
        return True

    assert {kind for kind in kinds if loads(kind)} == {OFFICIAL[name][0]}


OTHERS = {
    "checkpoint_extension": "safetensors",
    "dist_file_subfolder": "dist/",
    "allow_tf32": True,
    "use_8bit_adam": True,
    "dtype": "bfloat16",
    "bucketeer_random_ratio": 0.05,
    "clip_text_model_name": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "clip_image_model_name": "openai/clip-vit-large-patch14",
    "shift": 1,
    "offset_noise": 0.1,
}
"""Keys that the official code knows and no official training file gives."""


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("finetune_c_3b", OTHERS),
        ("finetune_c_3b_lora", OTHERS | {"lora_checkpoint_path": "models/lora.safetensors"}),
        ("controlnet_c_3b_canny", OTHERS | {"controlnet_checkpoint_path": "models/canny.safetensors"}),
    ],
)
def test_all_keys_of_the_official_code_are_known(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(official(name) | more), "utf-8")
    config = load_config(OFFICIAL[name][0], path)
    assert config.precision == "bfloat16"
    assert config.model_dump()["text_path"] == Path(more["clip_text_model_name"])


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        (
            "finetune_c_3b",
            "clip_text_modle_name: x",
            r"unknown key 'clip_text_modle_name'\. .*'clip_text_model_name'\?",
        ),
        ("finetune_c_3b", "use_fspd: false", r"unknown key 'use_fspd'\. Did you mean 'use_fsdp'\?"),
        ("finetune_c_3b", "dtype: float61", r"line 30: dtype: .*'bfloat16'.* \(got 'float61'\)"),
        ("finetune_c_3b", "allow_tf32: perhaps", r"line 30: allow_tf32: .*boolean"),
        ("finetune_c_3b", "bucketeer_random_ratio: 2", r"line 30: bucketeer_random_ratio: .*less than or equal to 1"),
        ("finetune_c_3b", "text_path: a\nclip_text_model_name: b", "are two names of one key"),
        ("finetune_c_3b", "model_version: 3.5B", r"Unknown size '3\.5B'; .*Did you mean '3\.6B'\?"),
        ("finetune_c_3b_lora", "rank: 0", r"line 30: rank: .*greater than 0 \(got 0\)"),
        ("finetune_c_3b_lora", "lora_alpha: 0", r"line 30: lora_alpha: .*greater than 0"),
        ("finetune_c_3b_lora", "lora_type: lokron", r"line 30: lora_type: .*'lokr'"),
        ("finetune_c_3b_lora", "module_filters: []", r"line 30: module_filters: .*at least 1 item"),
        ("finetune_c_3b_lora", "train_tokens: [['[fox]']]", r"line 30: train_tokens"),
        ("finetune_c_3b_lora", "train_tokens: [['(fox', null]]", r"train_tokens: '\(fox' is no regular expression"),
        ("finetune_c_3b_lora", "generator_checkpoint_path: null", "generator_checkpoint_path is missing: it names the"),
        ("controlnet_c_3b_canny", "controlnet_filter: CanyFilter", r"'CanyFilter' is none of .*mean 'CannyFilter'\?"),
        ("controlnet_c_3b_canny", "controlnet_filter_params: {rezise: 1}", r"takes resize; 'rezise'.*mean 'resize'\?"),
        ("controlnet_c_3b_canny", "controlnet_filter_params: {resize: x}", r"'resize': .*integer.* \(got 'x'\)"),
        ("controlnet_c_3b_canny", "controlnet_bottleneck_mode: larg", r"line 30: .*'large'"),
        ("controlnet_c_3b_canny", "controlnet_blocks: [0, 64]", r"no block 64; Stage C 3\.6B has 64, from 0 to 63"),
        ("controlnet_c_3b_canny", "controlnet_blocks: [1, 1]", "names block 1 twice"),
    ],
)
def test_mistakes_are_told_with_line_and_nearest(name: str, line: str, said: str, tmp_path: Path) -> None:
    values = {key: value for key, value in official(name).items() if key not in yaml.safe_load(line)}
    path = tmp_path / "run.yaml"
    path.write_text("\n" * 29 + line + "\n" + yaml.safe_dump(values), "utf-8")
    with pytest.raises(InputError, match=f"(?s){said}"):
        load_config(OFFICIAL[name][0], path)


def test_blocks_are_those_of_the_size(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(official("controlnet_c_3b_canny")), "utf-8")
    with pytest.raises(InputError, match="no block 51; Stage C 1B has 32, from 0 to 31"):
        load_config(ControlNetRun, path, ["model_version=1B"])


def test_what_has_no_effect_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(official("finetune_c_3b")), "utf-8")
    (remark,) = load_config(StageCRun, path).remarks()
    for key in ("checkpoint_path", "use_fsdp", "wandb_project"):
        assert f"{key} (" in remark
    assert "use_8bit_adam" not in remark
    off = ["use_fsdp=false", "wandb_project=null", "checkpoint_path=null"]
    assert load_config(StageCRun, path, off).remarks() == []


def test_precision_counts_more_than_dtype(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(official("finetune_c_3b") | {"dtype": "bfloat16"}), "utf-8")
    assert load_config(StageCRun, path).precision == "bfloat16"
    assert load_config(StageCRun, path, ["precision=float32"]).precision == "float32"
