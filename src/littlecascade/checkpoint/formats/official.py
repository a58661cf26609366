"""The official single files: one network each, under the names that littlecascade has too. Our own files add metadata.

The towers are as transformers names them; ControlNets and LoRAs are recognised here and read elsewhere.
"""

from __future__ import annotations

from littlecascade.checkpoint.formats.naming import Naming

NAMINGS = {
    "stage_a": Naming(("vquantizer.codebook.weight",)),
    "stage_b": Naming(("effnet_mapper.0.weight", "clip_mapper.weight")),
    "stage_c": Naming(("clip_txt_mapper.weight",)),
    "compressor": Naming(("mapper.0.weight", "backbone.0.0.weight")),
    "previewer": Naming(("blocks.0.weight", "blocks.2.running_mean")),
    "text": Naming(
        ("text_model.embeddings.token_embedding.weight", "text_projection.weight"),
        only=("text_model.", "text_projection."),
    ),
    "image": Naming(
        ("vision_model.embeddings.class_embedding", "visual_projection.weight"),
        only=("vision_model.", "visual_projection."),
    ),
    "controlnet": Naming(("projections.0.0.weight",)),
    "lora": Naming(("weights.0.lora_down",)),
}

FILES = {
    "stage_a": "stage_a.safetensors",
    "stage_b": "stage_b.safetensors",
    "stage_c": "stage_c.safetensors",
    "compressor": "effnet_encoder.safetensors",
    "previewer": "previewer.safetensors",
    "text": "text/model.safetensors",
    "image": "image/model.safetensors",
}
"""Where a folder has each part."""
