from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from littlecascade.adapters.tokens import LearnedTokens, Row, TokenInjection
from littlecascade.conditioning.clip import TextTower
from littlecascade.conditioning.prompts import Prompt
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError

PAIRS = [("[fernando]", "^dog"), ("^snail", None)]


def table(tower: TextTower) -> torch.Tensor:
    return tower.text_model.embeddings.token_embedding.weight


def like(tokenizer: ClipTokenizer, start: str) -> dict[str, int]:
    return {token: number for token, number in tokenizer.vocabulary.items() if token.startswith(start)}


def test_a_new_token_starts_as_the_mean_of_those_that_match(tower: TextTower, tokenizer: ClipTokenizer) -> None:
    learned = LearnedTokens.create(PAIRS, tokenizer, tower)
    dogs, snails = like(tokenizer, "dog"), like(tokenizer, "snail")
    assert len(dogs) > 1
    assert learned.rows == (Row("[fernando]", None, "^dog"), *(Row(*snail) for snail in snails.items()))
    torch.testing.assert_close(learned.vectors("[fernando]")[0], table(tower)[list(dogs.values())].mean(dim=0))
    assert LearnedTokens.create([("[x]", None)], tokenizer, tower).vectors("[x]").count_nonzero() == 0


def test_in_a_text_its_name_is_one_token(tower: TextTower, tokenizer: ClipTokenizer) -> None:
    learned = LearnedTokens.create(PAIRS, tokenizer, tower)
    size = len(table(tower))
    with TokenInjection(tower, [learned]) as injection:
        assert injection.names == {"[fernando]": [size]}
        known = tokenizer.extended(injection.names)
    text = "a dog, [Fernando]s cat"
    assert known.encode(text) == [*tokenizer.encode("a dog,"), size, *tokenizer.encode("s cat")]
    assert [text[start] for start in known.starts(text)][-3:] == ["[", "s", "c"]
    assert known.encode("a dog") == tokenizer.encode("a dog")
    several = tokenizer.extended({"[a]": [600, 601, 602], "[a]b": [603]})
    assert several.encode("[a] [a]b") == [600, 601, 602, 603]
    assert several.chunks("a a a [a]", 4) == [tokenizer.encode("a a a"), [600, 601, 602]]  # a name is not cut


def test_in_a_prompt_its_brackets_are_no_weight() -> None:
    prompt = Prompt.parse("a (photo of [Fernando]:1.5) in [snow]", ["[fernando]"])
    assert prompt.text == "a photo of [Fernando] in snow"
    assert prompt.weights[prompt.text.index("[")] == 1.5
    assert prompt.weights[-1] == pytest.approx(1 / 1.1)
    assert Prompt.parse("[fernando]").text == "fernando"


def test_the_tower_reads_the_learned_vectors(tower: TextTower, tokenizer: ClipTokenizer) -> None:
    """As if its table were longer, and the changed rows in it."""
    learned = LearnedTokens.create(PAIRS, tokenizer, tower)
    learned.change.data.normal_(generator=torch.Generator().manual_seed(0))
    longer = deepcopy(tower)
    rows = table(tower).clone()
    for place, row in enumerate(learned.rows[1:], start=1):
        rows[row.id] += learned.change.detach()[place]
    embedding = torch.nn.Embedding.from_pretrained(torch.cat([rows, learned.vectors("[fernando]")]))
    longer.text_model.embeddings.token_embedding = embedding
    weights = deepcopy(tower.state_dict())
    with TokenInjection(tower, [learned]) as injection:
        known = tokenizer.extended(injection.names)
        ids, mask = known.collate([known.encode("a snail and [fernando]"), known.encode("a cat")], 12)
        for given in (None, mask):
            for own, theirs in zip(tower(ids, given), longer(ids, given), strict=True):
                torch.testing.assert_close(own, theirs)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tower.state_dict().items())


@pytest.mark.parametrize("eos", [555, 2])
def test_a_text_is_still_pooled_at_its_end(tokenizer: ClipTokenizer, eos: int) -> None:
    """Old configurations look for the largest id, and learned tokens have larger ones."""
    from littlecascade.conditioning.clip import TextConfig

    tower = TextTower(TextConfig(64, 2, 1, 12, vocab_size=556, positions=12, eos_token_id=eos))
    ids = torch.tensor([[554, 5, 556, 7, 555, 555]])
    assert tower._end(ids).tolist() == [4]


def test_only_these_rows_learn(tower: TextTower, tokenizer: ClipTokenizer) -> None:
    learned = LearnedTokens.create(PAIRS, tokenizer, tower)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    plain = tower(torch.tensor([tokenizer.encode("the red apple")])).hidden
    optimizer = torch.optim.AdamW(learned.parameters(), lr=0.1)
    with TokenInjection(tower, [learned]) as injection:
        ids = torch.tensor([tokenizer.extended(injection.names).encode("the snail [fernando]")])
        used = {row for row in learned.rows if row.id is None or row.id in ids}
        for _ in range(3):
            optimizer.zero_grad()
            tower(ids).hidden.square().sum().backward()
            optimizer.step()
        assert torch.equal(tower(torch.tensor([tokenizer.encode("the red apple")])).hidden, plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())
    moved = {row for row, change in zip(learned.rows, learned.change, strict=True) if change.count_nonzero()}
    assert moved == used
    assert len(used) < len(learned.rows)


def test_an_encoder_draws_with_it(tower: TextTower, tokenizer: ClipTokenizer) -> None:
    learned = LearnedTokens(
        [Row("[cat]")] * 2, torch.zeros(2, 64), torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    )
    with TokenInjection(tower, [learned]) as injection:
        encoder = TextEncoder(tower, tokenizer.extended(injection.names))
        own = encoder.encode([Prompt.parse("a [cat]", ["[cat]"])]).hidden
    assert not torch.allclose(own, TextEncoder(tower, tokenizer).encode(["a cat"]).hidden)


def test_two_adapters_add_their_own(tower: TextTower, tokenizer: ClipTokenizer) -> None:
    one, other = (LearnedTokens.create([(name, "^dog")], tokenizer, tower) for name in ("[a]", "[b]"))
    size = len(table(tower))
    with TokenInjection(tower, [one, other]) as injection:
        assert injection.names == {"[a]": [size], "[b]": [size + 1]}
    with pytest.raises(InputError, match=r"Two adapters bring a token '\[a\]'"):
        TokenInjection(tower, [one, one])


@pytest.mark.parametrize(
    ("pairs", "wrong"),
    [
        ([("[x]", "^dgo")], r"No token of the vocabulary matches '\^dgo'. There are d"),
        ([("^snale", None)], "There are snail"),
        ([("[x]", "(")], "no regular expression"),
        ([("snail", "^dog")], r"is not new.*'\[name\]'"),
        ([("[x]", None), ("[x]", None)], "already"),
        ([("<|endoftext|>", None)], "already"),
        ([], "names no token"),
    ],
)
def test_mistakes_are_told(pairs: list, wrong: str, tower: TextTower, tokenizer: ClipTokenizer) -> None:
    with pytest.raises(InputError, match=wrong):
        LearnedTokens.create(pairs, tokenizer, tower)


def test_tokens_of_another_tower_are_told(tower: TextTower) -> None:
    with pytest.raises(InputError, match="have 32 values, and those of this text tower 64"):
        TokenInjection(tower, [LearnedTokens([Row("[x]")], torch.zeros(1, 32), torch.zeros(1, 32))])
