"""Models with made-up weights, as small as the library transformers lets them be: what they say is noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.build import Settings, build
from littlecascade.data.captioner import QUESTION, Captioner
from littlecascade.data.fit import Fit
from littlecascade.data.render import Rendering
from littlecascade.data.shards import Target
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[DEC]",
    "<image>",
    *QUESTION.lower().rstrip(".").split(),
    ".",
    "red",
    "dog",
]
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)


def pictures(count: int) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [Image.fromarray(value).resize((32, 32), Image.Resampling.NEAREST) for value in values]


def tokenizer(*, framed: bool) -> Any:
    """Of whole words. framed: with a token before and one behind every text, as BERT has them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        words.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, cls_token="[CLS]", sep_token="[SEP]", extra_special_tokens=["<image>"], **special
    )


def save_blip(folder: Path) -> Path:
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    torch.manual_seed(0)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    numbers = {"bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = small | numbers | {"vocab_size": len(WORDS), "encoder_hidden_size": 8, "projection_dim": 8}
    config = BlipConfig(text_config=text, vision_config=small | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer(framed=True)).save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**small, image_size=16, patch_size=8)
    text = LlamaConfig(**small, vocab_size=len(WORDS), pad_token_id=0, bos_token_id=2, eos_token_id=3)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=5)
    ).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        images, tokenizer(framed=False), patch_size=8, vision_feature_select_strategy="default", chat_template=CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_blip, save_llava])
def test_a_local_model_describes_pictures(tmp_path: Path, save: Any) -> None:
    describe = Captioner(str(save(tmp_path / "model")))
    captions = describe(pictures(3))
    assert len(captions) == 3
    said = {word.lower() for caption in captions for word in caption.split()}
    assert said <= {word.lower() for word in WORDS}
    assert any(captions)
    assert not any("user" in caption or QUESTION.lower() in caption for caption in captions)
    assert describe(pictures(1)) == captions[:1]


@pytest.mark.slow
def test_a_build_puts_the_models_captions_beside_the_pictures(tmp_path: Path) -> None:
    model = save_blip(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for number, image in enumerate(pictures(10)):
        image.save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"broken")
    settings = Settings(Rendering(fit=Fit(32), format="png"), captions=f"model:{model}")
    report = build(str(tmp_path / "in"), Target(tmp_path / "o.tar"), settings, workers=1)
    samples = find_samples(str(tmp_path / "o.tar"))
    assert report.written == len(samples) == 9
    images = [image for number, image in enumerate(pictures(10)) if number != 3]
    expected = [caption for image in images for caption in Captioner(str(model))([image])]
    assert [" ".join(sample.captions()) for sample in samples] == expected


@pytest.mark.slow
def test_a_model_of_another_kind_is_told(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=8, **size)).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="can't be used to describe pictures"):
        Captioner(str(tmp_path / "model"))


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blip-base").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"There is no model 'blip-bse' here.*Did you mean 'blip-base'\?"):
        Captioner("blip-bse")
    with pytest.raises(InputError, match="Nothing is downloaded"):
        Captioner("someone/no-such-captioner")
