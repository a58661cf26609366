"""The run configuration: the official release's flat YAML plus keys of our own, read into strict, typed models.

Official keys keep their official names and meanings; ours are marked by their comments. The runs of LoRA and ControlNet
are in `littlecascade.training.config_adapters`; `littlecascade.training.config_file` reads files as them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from littlecascade.checkpoint import places
from littlecascade.data.buckets import parse_ratios
from littlecascade.data.getters import parse_captions_getter, parse_filters
from littlecascade.errors import InputError
from littlecascade.training import paths
from littlecascade.training.batch import micro_batch

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class OfficialKeys(BaseModel):
    """Keys of the official release that do little or nothing here, so that its files are valid as they stand.

    `without_effect` says of those that would change something there what is done here instead. Of the others,
    wandb_entity goes with wandb_project, dist_file_subfolder is for a file by which the official processes meet,
    checkpoint_extension is always safetensors here, and float32 is never cut to TF32, so that allow_tf32 is not needed.
    """

    without_effect: ClassVar[Mapping[str, str]] = {
        "checkpoint_path": "checkpoints are in the run's folder, output_path / experiment_id",
        "use_fsdp": "one process trains",
        "wandb_project": "metrics.jsonl and report.html are in the run's folder; wandb: true sends them there, too",
    }

    checkpoint_path: Path | None = None
    checkpoint_extension: Literal["safetensors", "pt", "ckpt"] = "safetensors"
    dist_file_subfolder: str = ""
    allow_tf32: bool = True
    dtype: Precision | None = None  # stands for `precision` where that is not given
    use_fsdp: bool | None = None
    use_8bit_adam: bool = False  # stands for `optimizer: adamw8bit` where that is not given
    wandb_project: str | None = None
    wandb_entity: str | None = None


class RunConfig(OfficialKeys):
    """What every task understands.

    `fixed` names the keys that a run keeps for good: another network, other data or another thing to predict is another
    run. All other keys, such as the learning rate or the number of updates, may change when a run goes on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    fixed: ClassVar[frozenset[str]] = frozenset(
        {
            *("model_version", "seed", "optimizer", "webdataset_path", "image_size", "multi_aspect_ratio"),
            *("bucketeer_random_ratio", "dataset_filters", "captions_getter", "cache"),
        }
    )
    synonyms: ClassVar[Mapping[str, str]] = {"clip_text_model_name": "text_path", "clip_image_model_name": "image_path"}
    """Official names of keys that have another one here."""
    large: ClassVar[bool] = False
    """Whether it trains, or trains beside, one of the networks that are made for float16."""
    on_frozen: ClassVar[bool] = False
    """Whether what is trained is beside a network that stays as it is."""

    # the run
    experiment_id: Annotated[str, Field(min_length=1)]
    output_path: Path = Path("runs")
    model_version: str = "tiny"
    seed: int = 0  # ours
    precision: Precision = "auto"  # ours
    device: Literal["auto", "cpu", "cuda"] = "auto"  # ours; auto is the first GPU if there is one

    # optimisation
    lr: PositiveFloat
    batch_size: PositiveInt
    grad_accum_steps: PositiveInt = 1
    updates: PositiveInt
    max_hours: PositiveFloat | None = None  # ours; as many of the updates as fit into so much time
    warmup_updates: NonNegativeInt = 0
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"  # ours
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "muon", "prodigy"] = "adamw"  # ours
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # ours
    betas: tuple[Beta, Beta] = (0.9, 0.95)  # ours
    max_grad_norm: PositiveFloat = 1.0  # ours
    ema_start_iters: NonNegativeInt = 0
    ema_iters: PositiveInt = 10
    ema_beta: Beta = 0.99

    # what makes a run fit its memory, see docs/training-memory.md; all ours
    memory: Literal["auto", "given"] = "auto"  # auto chooses those of the keys below that are not given
    gradient_checkpointing: bool = False
    master_weights: Literal["float32", "none"] = "float32"
    fused_backward: bool = False
    offload: Literal["none", "weights", "optimizer", "activations", "all"] = "none"  # to the machine's memory

    # what is kept
    save_every: PositiveInt = 1000
    backup_every: PositiveInt | None = None
    preview_every: PositiveInt | None = None  # ours; save_every if not given

    # where metrics and previews go beside the run's folder; both ours
    tensorboard: bool = False
    wandb: bool = False  # with wandb_project and wandb_entity

    # data
    webdataset_path: str | list[str]
    image_size: PositiveInt = 1024
    multi_aspect_ratio: list[str | float] | None = None
    bucketeer_random_ratio: Share = 0.05
    captions_getter: list[str] | None = None
    dataset_filters: list[str | list[str]] | None = None
    default_caption: str | None = None  # ours; of pictures that have none, which without it are learnt without words
    cache: bool = True  # ours; false reads the data in a sweep and encodes anew at each visit
    cache_path: Path | None = None  # ours; a folder `cache` inside output_path if not given
    workers: NonNegativeInt = 2  # ours; processes that read and decode where nothing is cached

    @property
    def micro_batch(self) -> int:
        """Pictures in one forward pass."""
        return self.batch_size // self.grad_accum_steps

    @property
    def folder(self) -> Path:
        """The folder of this run."""
        return self.output_path / self.experiment_id

    @property
    def cache_folder(self) -> Path:
        """Where decoded pictures and the outputs of frozen networks are kept; runs may share it."""
        return self.cache_path or self.output_path / "cache"

    @classmethod
    def defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """What is meant where `values` leave a key out, as far as it depends on other keys."""
        dtype = values.get("dtype")
        meant = {"precision": dtype} if dtype in get_args(Precision) else {}
        return meant | ({"optimizer": "adamw8bit"} if values.get("use_8bit_adam") is True else {})

    def check(self) -> None:
        """Raise `InputError` for settings that contradict each other, or name a size that there is not."""
        from littlecascade.presets import find_preset

        find_preset(self.model_version)
        parse_filters(self.dataset_filters)
        parse_captions_getter(self.captions_getter)
        if self.multi_aspect_ratio:
            parse_ratios(self.multi_aspect_ratio)
        micro_batch(self.batch_size, self.grad_accum_steps)
        if self.fused_backward and self.grad_accum_steps > 1:
            raise InputError(
                f"fused_backward drops each gradient once it is used, so there is none to add grad_accum_steps "
                f"{self.grad_accum_steps} micro-batches up in: set grad_accum_steps to 1 and batch_size to "
                f"{self.micro_batch}, or fused_backward to false."
            )
        self._check_offload()
        if self.optimizer == "prodigy" and (self.fused_backward or self.master_weights == "none"):
            key = "fused_backward: true" if self.fused_backward else "master_weights: none"
            raise InputError(
                f"optimizer: prodigy finds its learning rate from all gradients and float32 weights at once, so "
                f"{key} does not go with it; optimizer adafactor or adamw8bit do."
            )

    def _check_offload(self) -> None:
        if self.offload == "weights" and not self.on_frozen:
            raise InputError(
                "offload: weights is for frozen weights, those that a LoRA is trained on. Where all weights are "
                "trained, optimizer and activations can be offloaded."
            )
        if self.offload == "activations" and not self.large:
            raise InputError("offload: activations is for Stage B and C; the networks of this run are small.")
        if self.offloads("optimizer") and self.optimizer == "prodigy":
            raise InputError(
                f"optimizer: prodigy steps on all weights at once, so offload: {self.offload} does not go with it; "
                "optimizer adafactor or adamw8bit do."
            )

    def offloads(self, what: str) -> bool:
        """Whether weights, optimizer or activations are to be in the machine's memory."""
        return self.offload in (what, "all")

    def remarks(self) -> list[str]:
        """What the user should know of a configuration that is valid, a sentence each."""
        used = {"wandb_project"} if self.wandb else set[str]()
        idle = [f"{key} ({why})" for key, why in self.without_effect.items() if getattr(self, key) and key not in used]
        return [f"of no effect here: {', '.join(idle)}."] if idle else []


class StageARun(RunConfig):
    """The VQGAN. All keys below are ours: the official release has no such run."""

    decoder_only: bool = False  # keeps the latents as they are, so that a Stage B that makes them stays right
    crop: PositiveInt = 32
    quantised_share: Share = 0.5
    commitment_weight: PositiveFloat = 0.25
    l1_weight: Annotated[float, Field(ge=0)] = 0.0
    gradient_weight: Annotated[float, Field(ge=0)] = 0.0
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.0
    adversarial_start: Share = 0.5
    stage_a_checkpoint_path: Path | None = None

    def check(self) -> None:
        super().check()
        if self.crop > self.image_size:
            raise InputError(f"crop {self.crop} is larger than image_size {self.image_size}; make it at most that.")
        if self.decoder_only and self.stage_a_checkpoint_path is None:
            raise InputError(
                "decoder_only trains the decoder of a Stage A that is there: name it as stage_a_checkpoint_path."
            )


class CompressorRun(RunConfig):
    """The semantic compressor with its previewer. All keys below are ours."""

    latent_noise: Annotated[float, Field(ge=0)] = 0.05
    l1_weight: Annotated[float, Field(ge=0)] = 0.0
    effnet_checkpoint_path: Path | None = None
    previewer_checkpoint_path: Path | None = None


class TextRun(RunConfig):
    """The text tower, taught by the sentence embeddings of a teacher. All keys below are ours."""

    fixed: ClassVar[frozenset[str]] = RunConfig.fixed | {"teacher_path", "tokenizer_path"}

    webdataset_path: str | list[str] = []
    image_size: PositiveInt = 128
    teacher_path: Path
    tokenizer_path: Path
    temperature: PositiveFloat = 0.05


class ImageRun(RunConfig):
    """The image tower, taught to land where the text tower puts the caption. All keys below are ours."""

    fixed: ClassVar[frozenset[str]] = RunConfig.fixed | {"text_path"}

    text_path: Path
    temperature: PositiveFloat = 0.05


class DiffusionRun(RunConfig):
    """What Stage B and Stage C share."""

    large: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = RunConfig.fixed | {
        *("adaptive_loss_weight", "edm_objective", "objective", "shift"),
        *("text_path", "effnet_checkpoint_path"),
    }

    adaptive_loss_weight: bool = False
    edm_objective: bool = False
    objective: Literal["epsilon", "v", "x0"] = "epsilon"  # ours
    loss_weight: Literal["p2", "min_snr", "uniform"] = "p2"  # ours
    shift: PositiveFloat = 1.0
    offset_noise: Annotated[float, Field(ge=0)] = 0.0
    pyramid_noise: bool = False  # ours
    masked_loss: bool = False  # ours; the error counts where the masks beside the pictures are white
    mask_floor: Share = 0.1  # ours; how much it counts elsewhere
    dropout: Share | None = None  # ours; the preset's if not given
    text_path: Path  # clip_text_model_name: a folder, or an official name; nothing is downloaded
    effnet_checkpoint_path: Path
    generator_checkpoint_path: Path | None = None
    text_dropout: Share = 0.05  # ours, the official constant

    def check(self) -> None:
        super().check()
        if self.masked_loss and not self.cache:
            raise InputError("masked_loss: masks are not read in a sweep; set cache to true.")

    @classmethod
    def defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The text tower is that of the size, by its official name."""
        return {"text_path": paths.tower("text", _size(values))} | super().defaults(values)


class StageBRun(DiffusionRun):
    """Semantic latents, of the picture at a scale from effnet_min_scale to 1, to Stage A's latents."""

    fixed: ClassVar[frozenset[str]] = DiffusionRun.fixed | {"stage_a_checkpoint_path"}

    stage_a_checkpoint_path: Path
    effnet_dropout: Share = 0.1  # ours, the official constant
    effnet_noise: Annotated[float, Field(ge=0)] = 0.0  # ours
    effnet_min_scale: Annotated[float, Field(gt=0, le=1)] = 0.5  # ours, the official constant
    pyramid_noise: bool = True  # ours, the official constant
    previewer_checkpoint_path: Path | None = None


class StageCRun(DiffusionRun):
    """Captions, and now and then pictures, to semantic latents."""

    fixed: ClassVar[frozenset[str]] = DiffusionRun.fixed | {"image_path"}

    image_path: Path | None = None  # clip_image_model_name, see text_path; without one pictures are not shown
    text_noise: Annotated[float, Field(ge=0)] = 0.0  # ours; half of the captions get noise, up to this times their size
    image_share: Share = 0.1  # ours, the official constant: samples that are given their picture's embedding
    image_alone: Share = 0.0  # ours: how many of those have their text dropped, to vary pictures without a prompt
    previewer_checkpoint_path: Path | None = None
    validation_prompts: list[str] = []  # ours

    @classmethod
    def defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The official sizes are shown pictures through the official image tower."""
        size = _size(values)
        image = {"image_path": paths.tower("image", size)} if size in places.STAGES else {}
        return image | super().defaults(values)


def _size(values: Mapping[str, Any]) -> str:
    """Our name of the size, whatever was written."""
    version = str(values.get("model_version", RunConfig.model_fields["model_version"].default))
    return places.VERSIONS.get(version, version)
