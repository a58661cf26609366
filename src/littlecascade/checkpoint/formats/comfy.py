"""ComfyUI's single files: the official names under prefixes, several networks in one file.

Stage C's file bundles the text tower, and may bundle compressor, previewer and image tower; Stage B's bundles Stage A.
ComfyUI itself saves attention with three matrices in place of one, which is read too.
"""

from __future__ import annotations

from littlecascade.checkpoint.formats.naming import Naming

_SPLIT = (
    ("attn.in_proj_weight", ("attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight")),
    ("attn.in_proj_bias", ("attn.to_q.bias", "attn.to_k.bias", "attn.to_v.bias")),
)


def _trunk(*marks: str) -> Naming:
    return Naming(marks, "model.diffusion_model.", also_split=_SPLIT)


NAMINGS = {
    "stage_a": Naming(("vquantizer.codebook.weight",), "vae."),
    "stage_b": _trunk("effnet_mapper.0.weight", "clip_mapper.weight"),
    "stage_c": _trunk("clip_txt_mapper.weight"),
    "compressor": Naming(("mapper.0.weight", "backbone.0.0.weight"), "vae.encoder."),
    "previewer": Naming(("blocks.0.weight", "blocks.2.running_mean"), "vae.previewer."),
    "text": Naming(
        (".text_model.embeddings.token_embedding.weight",),
        "text_encoder.clip_g.",
        renamed=(("text_model.", "transformer.text_model."), ("text_projection.", "transformer.text_projection.")),
        transposed=("text_projection.weight", "text_projection"),
    ),
    "image": Naming(("vision_model.embeddings.class_embedding",), "clip_l_vision."),
}

_STAGE_B, _STAGE_C = (f"stable_cascade_stage_{letter}.safetensors" for letter in "bc")

FILES = {
    "stage_a": _STAGE_B,
    "stage_b": _STAGE_B,
    "stage_c": _STAGE_C,
    "compressor": _STAGE_C,
    "previewer": _STAGE_C,
    "text": _STAGE_C,
    "image": _STAGE_C,
}
"""Where a folder has each part."""
