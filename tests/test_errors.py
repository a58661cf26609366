from __future__ import annotations

from littlecascade.errors import nearest, suggest

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "UniPC")


def test_the_nearest_choice_is_found_whatever_the_case() -> None:
    assert nearest("dpm", SAMPLERS) == "ddpm"
    assert nearest("unipc", SAMPLERS) == "UniPC"
    assert nearest("dpmpp2m", SAMPLERS) == "dpmpp_2m"


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert nearest("xyzzy", SAMPLERS) is None
    assert suggest("xyzzy", SAMPLERS) == ""
    assert suggest("ddmp", SAMPLERS) == " Did you mean 'ddpm'?"
