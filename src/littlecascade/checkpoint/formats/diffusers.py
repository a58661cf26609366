"""diffusers' folders: `prior/`, `decoder/` and `vqgan/`, each a config.json beside whole or sharded safetensors.

Attention has three matrices in place of one. diffusers has no compressor and no previewer; beside its folders they
have the official names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from littlecascade.checkpoint.formats import official
from littlecascade.checkpoint.formats.naming import Naming

_ATTENTION = {
    "renamed": (("attention.attn.out_proj.", "attention.to_out.0."),),
    "split": (
        ("attention.attn.in_proj_weight", tuple(f"attention.to_{letter}.weight" for letter in "qkv")),
        ("attention.attn.in_proj_bias", tuple(f"attention.to_{letter}.bias" for letter in "qkv")),
    ),
}

NAMINGS = {
    "stage_a": Naming(("vquantizer.embedding.weight",), renamed=(("vquantizer.codebook.", "vquantizer.embedding."),)),
    "stage_b": Naming(
        ("effnet_mapper.0.weight", "clip_txt_pooled_mapper.weight"),
        renamed=(*_ATTENTION["renamed"], ("clip_mapper.", "clip_txt_pooled_mapper.")),
        split=_ATTENTION["split"],
    ),
    "stage_c": Naming(("clip_txt_mapper.weight", ".attention.to_q.weight"), **_ATTENTION),
}

FILES = official.FILES | {
    "stage_a": "vqgan/diffusion_pytorch_model.safetensors",
    "stage_b": "decoder/diffusion_pytorch_model.safetensors",
    "stage_c": "prior/diffusion_pytorch_model.safetensors",
    "text": "text_encoder/model.safetensors",
    "image": "image_encoder/model.safetensors",
}
"""Where a folder has each part."""

_BLOCKS = {"C": "SDCascadeResBlock", "T": "SDCascadeTimestepBlock", "A": "SDCascadeAttnBlock"}
_LETTERS = {block: letter for letter, block in _BLOCKS.items()}

_STAGE_A = {
    "levels": "levels",
    "bottleneck_depth": "bottleneck_blocks",
    "width": "embed_dim",
    "latent_channels": "latent_channels",
    "codebook_size": "num_vq_embeddings",
    "scale": "scale_factor",
}
_TRUNK = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "patch": "patch_size",
    "cond_width": "conditioning_dim",
    "widths": "block_out_channels",
    "heads": "num_attention_heads",
    "down_depths": "down_num_layers_per_block",
    "up_depths": "up_num_layers_per_block",
    "down_repeats": "down_blocks_repeat_mappers",
    "up_repeats": "up_blocks_repeat_mappers",
    "layouts": "block_types_per_layer",
    "dropout": "dropout",
    "time_width": "timestep_ratio_embedding_dim",
    "kernel": "kernel_size",
    "self_attention": "self_attn",
    "time_conditions": "timestep_conditioning_type",
    "switch_level": "switch_level",
}
_CONDITIONS = {
    "stage_b": {
        "pooled_width": "clip_text_pooled_in_channels",
        "tokens_per_vector": "clip_seq",
        "effnet_channels": "effnet_in_channels",
        "pixel_channels": "pixel_mapper_in_channels",
    },
    "stage_c": {
        "text_width": "clip_text_in_channels",
        "pooled_width": "clip_text_pooled_in_channels",
        "image_width": "clip_image_in_channels",
        "tokens_per_vector": "clip_seq",
    },
}


def write_config(role: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's configuration, as plain values, as diffusers' config.json has it."""
    if role == "stage_a":
        return {"_class_name": "PaellaVQModel"} | {theirs: config[ours] for ours, theirs in _STAGE_A.items()}
    trunk = config["trunk"]
    return (
        {"_class_name": "StableCascadeUNet"}
        | {theirs: trunk[ours] for ours, theirs in _TRUNK.items()}
        | {theirs: config[ours] for ours, theirs in _CONDITIONS[role].items()}
        | {"block_types_per_layer": [[_BLOCKS[letter] for letter in layout] for layout in trunk["layouts"]]}
    )


def read_config(role: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a network's configuration in diffusers' config.json; what that leaves out is left out."""
    if role == "stage_a":
        return _present(_STAGE_A, stored)
    trunk = _present(_TRUNK, stored)
    levels = len(trunk["widths"])
    trunk["layouts"] = ["".join(_LETTERS[block] for block in blocks) for blocks in trunk["layouts"]]
    trunk["heads"] = [heads or 0 for heads in trunk["heads"]]
    for name in ("down_repeats", "up_repeats"):
        trunk[name] = trunk.get(name) or [1] * levels
    if isinstance(dropout := trunk.get("dropout"), float | int):
        trunk["dropout"] = [float(dropout)] * levels
    if isinstance(own := trunk.get("self_attention"), list):
        trunk["self_attention"] = all(own)
    return {"trunk": trunk} | _present(_CONDITIONS[role], stored)


def _present(names: Mapping[str, str], stored: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: stored[theirs] for ours, theirs in names.items() if theirs in stored}
