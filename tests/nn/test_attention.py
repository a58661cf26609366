from __future__ import annotations

import pytest
import torch
from torch import nn

from littlecascade.nn.attention import FusedAttention, SpatialAttention


@pytest.mark.parametrize("self_attention", [True, False])
def test_equals_torchs_multihead_attention_with_its_weights(self_attention: bool) -> None:
    ours, theirs = FusedAttention(12, 3, self_attention=self_attention), nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    x, tokens = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    keys = torch.cat([x, tokens], dim=1) if self_attention else tokens
    torch.testing.assert_close(ours(x, tokens), theirs(x, keys, keys, need_weights=False)[0])


def test_a_map_is_read_row_by_row() -> None:
    attention = SpatialAttention(8, 2)
    x, tokens = torch.randn(2, 3, 4, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(x, tokens).flatten(1, 2), attention.attn(x.flatten(1, 2), tokens))


def test_dropout_is_for_training_alone() -> None:
    attention = FusedAttention(8, 2, dropout=0.5)
    x, tokens = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    assert not torch.equal(attention(x, tokens), attention(x, tokens))
    attention.eval()
    assert torch.equal(attention(x, tokens), attention(x, tokens))
