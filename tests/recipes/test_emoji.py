"""The emoji recipe's pure parts, against colours, words and archives worked out by hand."""

from __future__ import annotations

import colorsys
import doctest
import importlib
import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji"
MODULES = ("names", "sources", "fetch", "render", "recolour", "captions", "build")


@pytest.fixture(scope="module")
def recipe():
    """The recipe's modules, which import one another as scripts do; afterwards their plain names are free again."""
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in set(MODULES) - known:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", MODULES)
def test_documented_examples_hold(recipe, name):
    assert doctest.testmod(getattr(recipe, name)).failed == 0


# Names and keywords


def test_codes_lose_the_variation_selector(recipe):
    assert recipe.names.plain_code("2764-FE0F-200D-1F525") == "2764-200d-1f525"
    assert recipe.names.code_of("❤️‍🔥") == "2764-200d-1f525"


def test_a_keyword_identifies_only_while_few_emoji_share_it(recipe):
    shared = {f"thing {number}": ["common", f"own {chr(97 + number)}"] for number in range(4)}
    kept = recipe.names.identifying({**shared, "hot dog": ["dog", "sausage", "no.1"]})
    assert kept["thing 2"] == ("own c",)
    assert kept["hot dog"] == ("sausage",)


def test_emoji_are_read_in_order_without_components(recipe, tmp_path):
    def write(path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    groups = [{"key": "food-drink", "order": 0}, {"key": "component", "order": 1}]
    subgroups = [{"key": "fruit", "order": 7}]
    records = [
        {"label": "Piñata", "hexcode": "1FA85", "order": 2, "group": 0, "subgroup": 7, "tags": ["party_thing"]},
        {"label": "pear", "hexcode": "1F350", "order": 1, "group": 0, "subgroup": 7},
        {"label": "red hair", "hexcode": "1F9B0", "order": 3, "group": 1, "subgroup": 7},
        {"label": "regional indicator A", "hexcode": "1F1E6"},
    ]
    write(tmp_path / "base/en/data.json", records)
    write(tmp_path / "base/en/messages.json", {"groups": groups, "subgroups": subgroups})
    write(tmp_path / "lib/dist/emoji-en-US.json", {"🍐": ["conference"]})
    pear, pinata = recipe.names.load(tmp_path / "base", tmp_path / "lib")
    assert pear == recipe.names.Emoji("1f350", "pear", "food-drink", "fruit", ("conference",))
    assert (pinata.name, pinata.keywords) == ("pinata", ("party thing",))


# Art


def test_an_icon_set_is_read_by_code_point(recipe, tmp_path):
    icons = {"width": 36, "height": 36, "icons": {"pizza": {"body": "<g/>", "height": 25.5}}}
    (tmp_path / "icons.json").write_text(json.dumps(icons))
    (tmp_path / "chars.json").write_text(json.dumps({"1f355": "pizza", "1f449": "an-alias"}))
    (art,) = recipe.sources.read_iconify(tmp_path)
    assert art.code == "1f355"
    assert 'viewBox="0 0 36 25.5"' in art.svg
    assert art.svg.endswith("><g/></svg>")


def test_files_are_read_by_code_point_and_country_flags_can_be_left_out(recipe, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "2764-fe0f.webp").touch()
    assert [art.code for art in recipe.sources.read_files(tmp_path)] == ["2764"]
    flag = recipe.names.Emoji("1f1eb-1f1f7", "flag: france", "flags", "country-flag", ())
    assert [style.name for style in recipe.sources.STYLES if not style.accepts(flag)] == ["3d"]


def test_art_is_cropped_fitted_and_centred_on_white(recipe):
    art = Image.new("RGBA", (40, 40))
    art.paste((255, 0, 0, 255), (5, 10, 35, 25))  # 30 x 15 pixels
    drawn = recipe.render.fit(art, 100, margin=0.05)
    assert (drawn.mode, drawn.size) == ("RGB", (100, 100))
    assert drawn.getpixel((4, 50)) == (255, 255, 255)
    assert drawn.getpixel((6, 50)) == (255, 0, 0)
    assert drawn.getpixel((50, 26)) == (255, 255, 255)  # 90 wide and so 45 high: rows 27 to 71
    assert drawn.getpixel((50, 28)) == (255, 0, 0)


def test_empty_art_is_an_error(recipe):
    with pytest.raises(ValueError, match="empty"):
        recipe.render.fit(Image.new("RGBA", (8, 8)), 16)


# Recolouring


def test_a_shift_turns_the_hue_and_scales_the_rest(recipe):
    found = recipe.recolour.Dominant(hue=0.0, saturation=1.0, value=1.0)
    turned = recipe.recolour.shift(colorsys.rgb_to_hsv(1.0, 0.2, 0.2), found, (1 / 3, 0.5, 0.8))
    # Red (h 0, s 0.8, v 1) turned by a third of the circle, s halved, v times 0.8: green (0.48, 0.8, 0.48).
    assert turned == pytest.approx((1 / 3, 0.4, 0.8))
    assert colorsys.hsv_to_rgb(*turned) == pytest.approx((0.48, 0.8, 0.48))


@pytest.mark.parametrize("kept", ["#808080", "#000000", "#ffffff", "#00ff00"])
def test_neutral_colours_and_other_hues_stay(recipe, kept):
    found = recipe.recolour.Dominant(hue=0.0, saturation=1.0, value=1.0)
    svg = f'<path fill="{kept}"/>'
    assert recipe.recolour.recolour(svg, found, (2 / 3, 1.0, 1.0)) == svg


def test_every_kind_of_paint_is_recoloured(recipe):
    found = recipe.recolour.Dominant(hue=0.0, saturation=1.0, value=1.0)
    svg = (
        '<g fill="none" stroke="#f00"><stop stop-color="rgba(255, 0, 0, .25)"/><path fill="red"/>'
        '<b fill="url(#red)"/></g>'
    )
    assert recipe.recolour.recolour(svg, found, (2 / 3, 1.0, 1.0)) == (
        '<g fill="none" stroke="#0000ff"><stop stop-color="rgba(0, 0, 255, .25)"/><path fill="#0000ff"/>'
        '<b fill="url(#red)"/></g>'
    )


def stripes(*colours: str) -> Image.Image:
    picture = Image.new("RGBA", (len(colours) * 10, 10))
    for index, colour in enumerate(colours):
        picture.paste(colour, (index * 10, 0, index * 10 + 10, 10))
    return picture


def test_one_hue_must_dominate(recipe):
    found = recipe.recolour.dominant(stripes("#ff0000", "#ff0000", "#ff0000", "#0000ff"))
    assert found is not None
    assert recipe.recolour.own_colour(found) == "red"
    assert recipe.recolour.dominant(stripes("#ff0000", "#0000ff", "#00ff00")) is None
    assert recipe.recolour.dominant(stripes("#808080", "#808080", "#ff0000")) is None
    assert recipe.recolour.dominant(Image.new("RGBA", (10, 10))) is None


def test_hues_average_across_the_seam_of_the_circle(recipe):
    found = recipe.recolour.dominant(stripes("#ff0033", "#ff3300"))  # 348 and 12 degrees
    assert recipe.recolour.hue_distance(found.hue, 0.0) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("colour", "word"),
    [("#e00000", "red"), ("#ff9acb", "pink"), ("#ffb0b0", "pink"), ("#ff8c1a", "orange"), ("#7a4a21", None)],
)
def test_own_colours_have_the_words_people_use(recipe, colour, word):
    assert recipe.recolour.own_colour(recipe.recolour.dominant(stripes(colour))) == word


def test_every_target_colour_bears_its_own_word(recipe):
    for word, (hue, saturation, value) in recipe.recolour.COLOURS.items():
        assert recipe.recolour.own_colour(recipe.recolour.Dominant(hue, saturation, value)) == word


def test_the_hold_out_is_a_fixed_tenth(recipe):
    pairs = [(colour, f"thing {number}") for colour in recipe.recolour.COLOURS for number in range(1000)]
    share = sum(recipe.recolour.is_held_out(*pair) for pair in pairs) / len(pairs)
    assert share == pytest.approx(0.1, abs=0.015)  # four standard deviations of 7,000 draws
    # The first 16 hex digits of what sha256sum prints for "yellow anchor" are a multiple of 10; "blue anchor" leaves 4.
    assert recipe.recolour.is_held_out("yellow", "anchor") is True
    assert recipe.recolour.is_held_out("blue", "anchor") is False


def emoji(recipe, name: str, group: str = "food-drink", subgroup: str = "food-fruit"):
    return recipe.names.Emoji("1f34e", name, group, subgroup, ("aubergine", "orchard"))


@pytest.fixture
def red_square(recipe):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8" fill="#e01010"/></svg>'
    return recipe.sources.Art("1f34e", svg=svg)


def test_pairs_are_held_out_in_every_style_and_nowhere_trained(recipe, red_square):
    pytest.importorskip("resvg_py")
    held_out: dict[str, set[str]] = {}
    trained: dict[str, set[str]] = {}
    for style in recipe.sources.STYLES:
        for number in range(4):
            drawing = recipe.build.Drawing(emoji(recipe, f"red thing {number}"), red_square, style)
            samples = recipe.build.pictures(drawing, recipe.captions.Synonyms(), frozenset(), 16)
            assert len(samples) == 7  # its own and six other colours
            for sample in samples:
                into = held_out if sample.held_out else trained
                into.setdefault(style.name, set()).add(sample.facts["name"])
    everywhere = set.union(*held_out.values())
    assert everywhere
    assert all(names == everywhere for names in held_out.values())
    assert not everywhere & set.union(*trained.values())


def test_a_recoloured_picture_never_takes_another_emojis_name(recipe, red_square):
    pytest.importorskip("resvg_py")
    drawing = recipe.build.Drawing(emoji(recipe, "red apple"), red_square, recipe.sources.STYLES[0])
    samples = recipe.build.pictures(drawing, recipe.captions.Synonyms(), frozenset({"green apple"}), 16)
    assert {sample.facts["name"] for sample in samples} == {
        "red apple", "orange apple", "yellow apple", "blue apple", "purple apple", "pink apple",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "group", "subgroup"),
    [("bald man", "people-body", "person"), ("1st place medal", "activities", "award-medal"),
     ("leafy green", "food-drink", "food-vegetable"), ("red circle", "symbols", "geometric")],
)  # fmt: skip
def test_what_means_its_colour_is_not_recoloured(recipe, name, group, subgroup):
    assert not recipe.recolour.suits(emoji(recipe, name, group, subgroup))


# Captions


def test_caption_lines_have_the_stated_shares(recipe):
    styles = ("{}, flat style", "{} in flat style")
    lines = recipe.captions.captions("pretzel", styles, ("twisted bread",))
    count = Counter(lines)
    assert len(lines) == 20
    assert count["pretzel"] == 9
    assert count["pretzel, flat style"] + count["pretzel in flat style"] == 5
    assert count["twisted bread"] == 2
    assert all(line == line.lower() for line in lines)


def test_a_colour_goes_before_name_and_synonym(recipe):
    lines = recipe.captions.captions("pretzel", ("{}, flat style",), ("twisted bread",), colour="blue")
    assert lines[0] == "blue pretzel"
    assert "blue twisted bread" in lines
    assert all("blue" in line for line in lines)


def test_signs_take_no_article(recipe):
    lines = recipe.captions.captions("no entry", ("{}, flat style",), counted=False)
    assert not any("a no entry" in line for line in lines)


def test_synonyms_are_read_with_their_stars(recipe, tmp_path):
    (tmp_path / "words.txt").write_text("# why\n\neggplant: aubergine*, brinjal\nsnail: escargot\naxe: hatchet*\n")
    synonyms = recipe.captions.read_synonyms(tmp_path / "words.txt")
    assert synonyms.shown == {"eggplant": ("brinjal",), "snail": ("escargot",)}
    assert synonyms.held_out == {"aubergine": "eggplant", "hatchet": "axe"}


@pytest.mark.parametrize(
    ("shown", "held_out", "message"),
    [({"axe": ("two hatchets",)}, {"hatchet": "axe"}, "two hatchets"), ({"ax": ("x",)}, {}, "no emoji bears")],
)
def test_a_leaking_or_stray_synonym_is_an_error(recipe, shown, held_out, message):
    with pytest.raises(ValueError, match=message):
        recipe.captions.Synonyms(shown, held_out).check({"axe"})


def test_fifty_synonyms_are_held_out_and_no_caption_or_keyword_holds_one(recipe):
    synonyms = recipe.captions.read_synonyms(RECIPE / "synonyms.txt")
    assert len(synonyms.held_out) == 50
    for name in {*synonyms.shown, *synonyms.held_out.values()}:
        art = recipe.sources.Art("1f34e", raster=Path("unused"))
        for style in recipe.sources.STYLES:
            drawing = recipe.build.Drawing(emoji(recipe, name), art, style)
            (sample,) = recipe.build.pictures(drawing, synonyms, frozenset(), 16)
            text = "\n".join((*sample.lines, *sample.facts["keywords"]))
            assert not [word for word in synonyms.held_out if recipe.captions.mentions(text, word)]


# Downloads


def archive(path: Path, name: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    return path


def test_an_archive_is_unpacked_whole(recipe, tmp_path):
    recipe.fetch.extract(archive(tmp_path / "good.tgz", "package/package.json"), tmp_path / "good")
    assert (tmp_path / "good" / "package" / "package.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../evil.json", "package/../../evil.json"])
def test_an_archive_that_leaves_its_folder_is_refused(recipe, tmp_path, name):
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(recipe.fetch.FetchError, match="unsafe"):
        recipe.fetch.extract(archive(cache / "bad.tgz", name), cache / "bad")
    assert [path.name for path in tmp_path.rglob("*")] == ["cache", "bad.tgz"]


def test_a_changed_archive_is_refused(recipe, tmp_path):
    with pytest.raises(recipe.fetch.FetchError, match="SHA-256"):
        recipe.fetch.check_hash(archive(tmp_path / "other.tgz", "x"), recipe.sources.NOTO)


@pytest.mark.parametrize("icon_licence", ["CC-BY-SA-4.0", None])
def test_an_unexpected_licence_is_refused(recipe, tmp_path, icon_licence):
    (tmp_path / "package.json").write_text(json.dumps({"license": "Apache-2.0"}))
    recipe.fetch.check_licence(tmp_path, recipe.sources.NOTO)
    (tmp_path / "info.json").write_text(json.dumps({"license": {"spdx": icon_licence}}))
    with pytest.raises(recipe.fetch.FetchError, match=r"expected 'Apache-2\.0'"):
        recipe.fetch.check_licence(tmp_path, recipe.sources.NOTO)


# Shards


def test_shards_hold_pictures_captions_and_facts_and_are_reproducible(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.build, "SHARD_SAMPLES", 2)
    monkeypatch.setattr(recipe.render, "spread", lambda function, items, label, workers: map(str.encode, items))
    samples = [recipe.build.Sample(f"s{n}", f"picture {n}", ("a", "b"), {"name": n}, False) for n in range(3)]
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        paths = recipe.build.write_shards(folder, "train", samples, None)
        assert [path.name for path in paths] == ["train-000.tar", "train-001.tar"]
        assert sorted(folder.iterdir()) == paths
    for name in ("train-000.tar", "train-001.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / "train-001.tar") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    members = {path.name: path.read_bytes() for path in (tmp_path / "unpacked").iterdir()}
    assert members == {"s2.webp": b"picture 2", "s2.txt": b"a\nb\n", "s2.json": b'{"name": 2}'}


def test_a_folder_with_shards_is_not_built_into(recipe, tmp_path, capsys):
    (tmp_path / "train-007.tar").touch()
    with pytest.raises(SystemExit):
        recipe.build.main(["--out", str(tmp_path)])
    assert "already holds shards" in capsys.readouterr().err


def test_the_attribution_names_every_package(recipe):
    text = recipe.build.attribution()
    for package in recipe.sources.PACKAGES:
        assert package.name in text
        assert package.author in text
        assert package.licence in text
