"""The formats in which a cascade's weights are published: names of tensors, places of files, configurations.

Tensors travel as mappings that are read one by one. A naming's `decode` gives them official names, `encode` its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from littlecascade.checkpoint.formats import comfy, diffusers, official
from littlecascade.checkpoint.formats.naming import Naming


@dataclass(frozen=True)
class Format:
    """How a format names the tensors of each part, and in which file of a folder it has them.

    tokenizer, preparation: the folders of the tokenizer's files and of the settings with which pictures are prepared.
    """

    namings: Mapping[str, Naming]
    files: Mapping[str, str]
    tokenizer: str = "tokenizer"
    preparation: str = "feature_extractor"

    def naming(self, role: str) -> Naming:
        """Of a part; the official one where the format knows no such part."""
        return self.namings.get(role) or official.NAMINGS[role]


FORMATS: Mapping[str, Format] = {
    "comfy": Format(comfy.NAMINGS, comfy.FILES),
    "diffusers": Format(diffusers.NAMINGS, diffusers.FILES),
    "official": Format(official.NAMINGS, official.FILES, "text", "image"),
    "own": Format({}, official.FILES, "text", "image"),
}
"""A part has the first of these formats whose naming fits. Our own is official names and a configuration with them."""
