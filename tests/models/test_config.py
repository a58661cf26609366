from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from littlecascade.errors import InputError
from littlecascade.models.config import StageAConfig, StageBConfig, StageCConfig, TrunkConfig, from_dict, to_dict
from littlecascade.presets import PRESETS

TRUNK = PRESETS["tiny"].stage_c.trunk
NETWORKS = ("stage_a", "stage_b", "stage_c", "compressor", "previewer")


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_config_survives_json(size: str, network: str) -> None:
    config = getattr(PRESETS[size], network)
    again = from_dict(type(config), json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert {type(getattr(again, field.name)) for field in fields(again)} == {
        type(getattr(config, field.name)) for field in fields(config)
    }


def test_missing_optional_values_take_their_defaults() -> None:
    assert from_dict(StageAConfig, {"width": 128}) == StageAConfig(width=128)
    assert from_dict(StageAConfig, {"scale": 1}).scale == 1.0
    assert from_dict(TrunkConfig, to_dict(TRUNK) | {"switch_level": None}).switch_level is None


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (StageAConfig, {"widht": 1}, r"StageAConfig has no 'widht'. Did you mean 'width'\? It has: levels, "),
        (StageCConfig, {}, "StageCConfig lacks trunk"),
        (StageAConfig, {"width": "128"}, "StageAConfig.width is '128'; it takes a value of type int"),
        (StageAConfig, {"width": True}, "takes a value of type int"),
        (StageAConfig, {"width": 12.5}, "takes a value of type int"),
        (StageBConfig, {"trunk": 3}, "TrunkConfig takes a mapping"),
        (TrunkConfig, to_dict(TRUNK) | {"widths": 3}, "TrunkConfig.widths is 3; it takes a list"),
        (TrunkConfig, to_dict(TRUNK) | {"widths": [384, "x"]}, r"TrunkConfig.widths\[1\] is 'x'"),
    ],
)
def test_wrong_values_are_named(config: type, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(config, values)


def test_a_choice_of_words_is_checked() -> None:
    config = PRESETS["tiny"].compressor
    values = to_dict(config)
    values["stages"][1]["kind"] = "mbconv"
    with pytest.raises(InputError, match=r"StageSpec\.kind is 'mbconv'; it takes one of 'fused', 'mb'"):
        from_dict(type(config), values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": (6,)}, "heads has 1 entries, and the number of levels asks for 2"),
        ({"switch_level": ()}, "switch_level has 0 entries, and the number of levels asks for 1"),
        ({"layouts": ("CTA", "CTX")}, r"layouts\[1\] is 'CTX'"),
        ({"layouts": ("", "CTA")}, r"layouts\[0\] is ''"),
        ({"heads": (6, 5)}, r"heads\[1\] is 5, which does not divide the width 384"),
        ({"heads": (0, 6)}, r"heads\[0\] is 0"),
        ({"down_repeats": (1, 0)}, r"down_repeats\[1\] is 0"),
    ],
)
def test_a_trunk_that_cannot_be_built_is_told(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TRUNK, **changes)
