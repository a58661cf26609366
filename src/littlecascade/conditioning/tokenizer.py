"""CLIP's byte-pair encoding, from the files that transformers saves, and the split of long prompts into chunks.

Text is composed (NFC), its white space is joined, it is put in lower case and cut into words, numbers (digit by
digit) and runs of other signs; each is encoded as bytes and merged, its last token ending in `</w>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from littlecascade.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokens(NamedTuple):
    """Token ids `(B, T)` (int64), and a mask `(B, T)` that is True from the first token to the end of the text."""

    ids: Tensor
    mask: Tensor


class ClipTokenizer:
    """Text to token ids. `pad` is the token that fills a text up to a fixed length.

    learned: names, such as `[fernando]`, and the ids that stand for each wherever it occurs, upper and lower case taken
    alike; they are not part of the vocabulary.
    """

    learned: Mapping[str, Sequence[int]] = {}

    def __init__(self, tokenizer: Tokenizer, pad: str = EOS) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        missing = [token for token in (BOS, EOS, pad) if token not in vocabulary]
        if missing:
            raise InputError(f"This is no CLIP tokenizer: its vocabulary has no {' and no '.join(missing)}.")
        self._tokenizer = tokenizer
        self._pad_token = pad
        self.vocabulary: dict[str, int] = vocabulary
        """Every token and its id; a token that ends a word ends in `</w>`."""
        self.bos, self.eos, self.pad = (vocabulary[token] for token in (BOS, EOS, pad))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads `tokenizer.json`, or else `vocab.json` and `merges.txt`, of the folder that transformers saved.

        Raises:
            InputError: there is no such file, or it is not a CLIP tokenizer's.
        """
        from tokenizers import Tokenizer

        folder = Path(folder)
        whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if whole.is_file():
                tokenizer = Tokenizer.from_file(str(whole))
            elif vocabulary.is_file() and merges.is_file():
                lines = merges.read_text("utf-8").splitlines()
                pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
                tokenizer = _assemble(json.loads(vocabulary.read_text("utf-8")), pairs)
            else:
                raise InputError(
                    f"No tokenizer in {folder}: looked for tokenizer.json, and for vocab.json with merges.txt."
                )
        except InputError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise InputError(f"The tokenizer in {folder} can't be read: {error}") from error
        return cls(tokenizer, _pad_token(folder))

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which transformers' CLIPTokenizer reads as well."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": EOS,
            "pad_token": self._pad_token,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def extended(self, learned: Mapping[str, Sequence[int]]) -> Self:
        """The same with learned tokens."""
        copy = type(self)(self._tokenizer, self._pad_token)
        copy.learned = learned
        return copy

    def encode(self, text: str) -> list[int]:
        """The ids of a text of any length, without the tokens that begin and end it."""
        return [token for token, _ in self._tokens(text)]

    def starts(self, text: str) -> list[int]:
        """Where in `text` each token of `encode` begins; tokens of one sign, and of one learned name, begin alike."""
        return [start for _, start in self._tokens(text)]

    def _tokens(self, text: str) -> Iterator[tuple[int, int]]:
        """The ids of a text, and where each begins."""
        names = sorted(self.learned, key=len, reverse=True)  # of two that begin alike, the longer one is meant
        pattern = "|".join(f"({re.escape(name)})" for name in names)
        place = 0
        for found in [*(re.finditer(pattern, text, re.IGNORECASE) if names else ()), None]:
            encoding = self._tokenizer.encode(text[place : found.start() if found else None], add_special_tokens=False)
            for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
                yield token, place + start
            if found and found.lastindex:
                yield from ((token, found.start()) for token in self.learned[names[found.lastindex - 1]])
                place = found.end()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, in lower case, words apart by one space; special tokens are left out."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.replace(WORD_END, " ").strip()

    def chunks(self, text: str, length: int) -> list[list[int]]:
        """Cuts the ids of a text into runs of at most `length`, between words wherever a word fits into one run.

        There is always at least one chunk, which is empty for an empty text.
        """
        ids = self.encode(text)
        chunks = []
        start = 0
        while len(ids) - start > length:
            cut = start + length
            ends = (i + 1 for i in range(cut - 1, start - 1, -1) if self._ends_word(ids[i]))
            end = next(ends, cut)
            chunks.append(ids[start:end])
            start = end
        return [*chunks, ids[start:]]

    def collate(self, chunks: Sequence[Sequence[int]], length: int) -> Tokens:
        """Puts a beginning and an end round each chunk and fills it up to `length` tokens."""
        too_long = max((len(chunk) for chunk in chunks), default=0) + 2
        if too_long > length:
            raise InputError(f"A text of {too_long} tokens does not fit into {length}: cut it with chunks().")
        ids = torch.full((len(chunks), length), self.pad)
        mask = torch.zeros(len(chunks), length, dtype=torch.bool)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk) + 2] = torch.tensor([self.bos, *chunk, self.eos])
            mask[row, : len(chunk) + 2] = True
        return Tokens(ids, mask)

    def _ends_word(self, token: int) -> bool:
        if any(token in ids[:-1] for ids in self.learned.values()):
            return False
        text = self._tokenizer.id_to_token(token)
        return text is None or text.endswith(WORD_END) or text in (BOS, EOS)


def train(texts: Iterable[str], vocabulary_size: int) -> ClipTokenizer:
    """Learns a byte-pair encoding of CLIP's form, in which no text has an unknown token.

    The ids are laid out as in CLIP: 256 bytes, the same 256 at the end of a word, merges in the order in which they
    were learned, then the tokens that begin and end a text.

    Raises:
        InputError: `vocabulary_size` leaves no room for merges, or the texts hold too few pairs to fill it.
    """
    from tokenizers import pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary_size <= 2 * len(alphabet) + 2:
        raise InputError(f"A CLIP vocabulary has more than {2 * len(alphabet) + 2} tokens; {vocabulary_size} given.")
    learner = _assemble({EOS: 0}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
    )
    learner.train_from_iterator(texts, trainer)
    tokens = [*alphabet, *(sign + WORD_END for sign in alphabet)]
    known = set(tokens)
    merges = []
    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        if len(tokens) == vocabulary_size - 2:
            break
        merges.append((left, right))
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    if len(tokens) < vocabulary_size - 2:
        raise InputError(f"These texts hold pairs for {len(tokens) + 2} tokens only; {vocabulary_size} were asked for.")
    return ClipTokenizer(_assemble({token: i for i, token in enumerate([*tokens, BOS, EOS])}, merges))


def _assemble(vocabulary: Mapping[str, int], merges: Sequence[Any]) -> Tokenizer:
    """CLIP's normalisation and word split round a byte-pair encoding."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    model = models.BPE(dict(vocabulary), list(merges), unk_token=EOS, end_of_word_suffix=WORD_END)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token in (BOS, EOS) if token in vocabulary])
    return tokenizer


def _pad_token(folder: Path) -> str:
    """The padding token that the folder names; CLIP pads with the end of the text."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        token = json.loads(path.read_text("utf-8")).get("pad_token") if path.is_file() else None
        if token is not None:
            return token["content"] if isinstance(token, dict) else token
    return EOS
