"""`generate`, `vary` and `edit`: what they write. The recipes in the files say how each was drawn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade import load_latents
from littlecascade.cli.main import main
from littlecascade.recipe import read_recipe, save_png


def recipe_of(path: str, *keys: str) -> tuple:
    recipe = read_recipe(Path(path))
    return tuple(recipe[key] for key in keys)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.int16)


def test_each_picture_is_a_file_with_a_recipe_and_its_path_is_printed(draw) -> None:
    paths = draw("generate", "a red apple", "a pear", "-n", "2", "--seed", "3")
    assert paths == ["a-red-apple.png", "a-red-apple-2.png", "a-pear.png", "a-pear-2.png"]
    drawn = [recipe_of(path, "task", "prompt", "seed", "steps", "model") for path in paths]
    assert drawn == [
        ("generate", "a red apple", 3, 1, "tiny"),
        ("generate", "a red apple", 4, 1, "tiny"),
        ("generate", "a pear", 5, 1, "tiny"),
        ("generate", "a pear", 6, 1, "tiny"),
    ]


def test_every_option_reaches_the_drawing(capsys) -> None:
    line = (
        "generate x --seed 7 --size 72x64 --steps 2 --sampler ddim --guidance 2.5 --rescale 0.3 --negative blue "
        "--guidance-interval 0.1-0.9 --decoder-steps 1 --decoder-sampler ddpm --decoder-guidance 1.2 "
        "--precision bfloat16 --device cpu -o out"
    )
    assert main(line.split()) == 0
    path = capsys.readouterr().out.strip()
    assert Path(path) == Path("out/x.png")
    asked = {
        "seed": 7,
        "size": [72, 64],
        "steps": 2,
        "sampler": "ddim",
        "guidance": 2.5,
        "rescale": 0.3,
        "negative": "blue",
        "guidance_interval": [0.1, 0.9],
        "decoder_steps": 1,
        "decoder_sampler": "ddpm",
        "decoder_guidance": 1.2,
        "precision": "bfloat16",
    }
    assert asked.items() <= read_recipe(Path(path)).items()
    assert pixels(path).shape == (64, 72, 3)


def test_a_picture_is_drawn_again_from_its_recipe_and_options_overrule_it(draw) -> None:
    (first,) = draw("generate", "a cat", "--seed", "5", "--size", "64", "-o", "cat.png")
    (again,) = draw("generate", "--from", first, "-o", "again.png")
    assert Path(first).read_bytes() == Path(again).read_bytes()
    (other,) = draw("generate", "--from", first, "--seed", "6", "--steps", "2", "a dog")  # the later --steps counts
    assert recipe_of(other, "prompt", "seed", "size") == ("a dog", 6, [64, 64])


@pytest.mark.parametrize(
    ("line", "output"),
    [
        (["vary", "disc.png", "--weights", "2", "--background", "#00ff00"], "disc-variation.png"),
        (["vary", "disc.png", "disc.png", "--weights=-1,2", "--prompt", "a cat"], "disc-variation.png"),
        (["edit", "disc.png", "a cat", "--strength", "0.4"], "disc-edit.png"),
        (["reconstruct", "disc.png", "--size", "80x64"], "disc-reconstruction.png"),
    ],
)
def test_every_verb_draws_its_pictures_again(line: list[str], output: str, disc: str, draw, fail) -> None:
    words = [*line, "--seed", "4"]
    assert draw(*words)[0].split("  ")[0] == output
    (again,) = draw(line[0], "--from", output, "-o", "again.png")
    assert Path(output).read_bytes() == Path("again.png").read_bytes()
    assert again.startswith("again.png")
    if line[0] == "reconstruct":
        assert "littlecascade reconstruct --from" in fail("generate", "--from", output)
    else:
        draw("generate", "--from", output, "-o", "third.png")
        assert Path(output).read_bytes() == Path("third.png").read_bytes()
        other = {"vary": "edit", "edit": "vary"}[line[0]]
        assert f"littlecascade {line[0]} --from {output}" in fail(other, "--from", output)


def test_a_source_that_is_gone_or_changed_is_told_and_can_be_given(disc: str, here: Path, draw, fail) -> None:
    (drawn,) = draw("edit", disc, "a cat", "--seed", "1")
    Path(disc).rename("moved.png")
    told = "which this recipe started from: give the picture with it. littlecascade edit IMAGE --from disc-edit.png"
    assert fail("edit", "--from", drawn).endswith(told)
    Image.new("RGB", (96, 96)).save(disc)
    assert "has changed since" in fail("edit", "--from", drawn)
    draw("edit", "moved.png", "--from", drawn, "-o", "again.png")
    assert np.array_equal(pixels(drawn), pixels("again.png"))


def test_a_picture_without_words_is_varied_and_named(disc: str, draw) -> None:
    assert draw("vary", disc, "-n", "2", "--seed", "1") == ["disc-variation.png", "disc-variation-2.png"]
    assert recipe_of("disc-variation-2.png", "task", "prompt", "seed", "weights") == ("vary", "", 2, [1.0])
    (source,) = recipe_of("disc-variation.png", "sources")[0]
    assert source["path"] == disc


def test_transparent_parts_show_the_background(here: Path, draw) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save("clear.png")
    Image.new("RGB", (64, 64), (0, 128, 0)).save("green.png")
    lines = [["clear.png", "--background", "green"], ["green.png"], ["clear.png"]]
    green, same, white = (
        pixels(draw("edit", *line, "a cat", "--strength", "0.1", "--seed", "1", "-o", f"{number}.png")[0])
        for number, line in enumerate(lines)
    )
    assert np.array_equal(green, same)
    assert not np.array_equal(green, white)


def test_pictures_that_can_not_be_used_are_told(disc: str, here: Path, fail) -> None:
    Image.new("L", (30000, 20)).save("long.png")
    assert "2 weights for 1 pictures" in fail("vary", disc, "--weights", "1,0.5")
    assert "whose sum is above 0" in fail("vary", disc, disc, "--weights", "1,-1")
    assert "'whit' is not a colour" in fail("vary", disc, "--background", "whit")
    for verb in ("edit", "reconstruct"):
        assert "30000x20 pixels is too long" in fail(verb, "long.png", *(["a cat"] if verb == "edit" else []))
    assert "is a folder" in fail("vary", ".")


@pytest.mark.parametrize(
    ("digest", "said"), [(None, ""), ("cd", "littlecascade: cat.png was drawn with other weights of 'tiny'\n")]
)
def test_other_weights_than_the_recipes_are_mentioned(digest: str | None, said: str, draw, capsys) -> None:
    (path,) = draw("generate", "a cat", "-o", "cat.png")
    recipe = read_recipe(Path(path))
    save_png(Image.new("RGB", (1, 1)), Path(path), recipe | ({"model_digest": digest} if digest else {}))
    assert main(["generate", "--from", "cat.png", "-o", "again.png"]) == 0
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("change", [{"prompt": 3}, {"model": 3}, {"precision": None}, {"task": "sheet"}])
def test_a_broken_recipe_is_one_line(change: dict, draw, fail) -> None:
    (path,) = draw("generate", "a cat")
    save_png(Image.new("RGB", (1, 1)), Path(path), read_recipe(Path(path)) | change)
    assert fail("generate", "--from", path)


def test_an_empty_prompt_is_drawn_and_mentioned(capsys) -> None:
    assert main(["generate", "", "--steps", "1"]) == 0
    assert capsys.readouterr() == ("picture.png\n", "littlecascade: an empty prompt draws whatever comes up\n")


def test_latents_are_saved_and_drawn_again(draw, fail) -> None:
    draw("generate", "a cat", "a dog", "--seed", "2", "--save-latents", "two.safetensors")
    assert load_latents("two.safetensors").shape == (2, 16, 4, 4)
    assert draw("reconstruct", "--from-latents", "two.safetensors") == ["two.png", "two-2.png"]
    assert recipe_of("two-2.png", "task", "size") == ("decode", [128, 128])
    assert "'two.safetensors' exists" in fail("generate", "a cat", "--save-latents", "two.safetensors")


def test_a_sheet_holds_all_pictures(draw) -> None:
    singles = draw("generate", "a cat", "-n", "3", "--seed", "2", "--size", "64", "-o", "one.png")
    (sheet,) = draw("generate", "a cat", "-n", "3", "--seed", "2", "--size", "64", "--sheet", "-o", "sheet.png")
    whole = pixels(sheet)
    assert whole.shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    for path, (x, y) in zip(singles, [(0, 0), (68, 0), (0, 68)], strict=True):
        assert np.array_equal(whole[y : y + 64, x : x + 64], pixels(path))
    assert [recipe["seed"] for recipe in recipe_of(sheet, "pictures")[0]] == [2, 3, 4]


def test_a_grid_draws_every_combination_with_the_same_seeds(capsys) -> None:
    line = "generate cat dog -n 2 --seed 5 --size 64 --decoder-steps 1 --grid steps=1,2 --grid guidance=1,3"
    assert main(line.split()) == 0
    assert capsys.readouterr().out == "cat-plot.png\n"
    drawn = recipe_of("cat-plot.png", "pictures")[0]
    assert [(one["prompt"], one["seed"], one["guidance"], one["steps"]) for one in drawn] == [
        (prompt, seed, guidance, steps)
        for prompt in ("cat", "dog")
        for seed in (5, 6)
        for guidance in (1, 3)
        for steps in (1, 2)
    ]


def test_verbose_tells_time_and_memory_on_stderr(capsys) -> None:
    assert main(["generate", "x", "--steps", "1", "--verbose"]) == 0
    out, err = capsys.readouterr()
    assert out == "x.png\n"
    assert re.search(r"stage_c \d+\.\d s, .*; \d+\.\d\d GiB of memory at the most\n$", err)


def test_a_full_disk_leaves_what_is_finished(here: Path, monkeypatch, fail) -> None:
    save = Image.Image.save

    def limited(self: Image.Image, file: Path, **options: object) -> None:
        if len(list((here / "out").glob("*.png"))) == 2:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, file, **options)

    monkeypatch.setattr(Image.Image, "save", limited)
    line = fail("generate", "x", "-n", "4", "--steps", "1", "--decoder-steps", "1", "-o", "out/", code=1)
    assert "No space left on device" in line
    third = Path("out") / "x-3.png"
    assert line.endswith(f"'{third}' could not be written; 2 of 4 pictures are finished, in {here / 'out'}")
    assert sorted(path.name for path in (here / "out").iterdir()) == ["x-2.png", "x.png"]
    assert recipe_of("out/x-2.png", "prompt") == ("x",)


def test_a_stopped_plot_is_written_as_far_as_it_is(here: Path, monkeypatch, fail) -> None:
    from littlecascade import Cascade

    generate = Cascade.generate

    def interrupted(self: Cascade, *args: object, **options: object) -> object:
        if options["steps"] == 2:
            raise KeyboardInterrupt
        return generate(self, *args, **options)

    monkeypatch.setattr(Cascade, "generate", interrupted)
    line = fail("generate", "x", "--decoder-steps", "1", "--grid", "steps=1,2,3", "-o", "plot.png", code=130)
    assert line == f"interrupted; 1 of 3 pictures are finished, in {here}"
    assert [one["steps"] for one in recipe_of("plot.png", "pictures")[0]] == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_leaves_finished_pictures_and_says_where(here: Path) -> None:
    options = "-n 4000 --size 64 --steps 1 --decoder-steps 1 --seed 0 -o out/"
    process = subprocess.Popen(
        [sys.executable, "-m", "littlecascade", "generate", "a red apple", *options.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    found = re.fullmatch(r"littlecascade: interrupted; (\d+) of 4000 pictures are finished, in (.+)\n", err)
    assert found is not None, err
    assert Path(found[2]) == (here / "out").resolve()
    pictures = list((here / "out").iterdir())
    assert int(found[1]) <= len(pictures) <= int(found[1]) + 1  # it may have been caught before it was counted
    assert {Path(line) for line in (first, *out.split())} <= {path.relative_to(here) for path in pictures}
    for path in pictures:
        assert recipe_of(str(path), "prompt") == ("a red apple",)
        assert pixels(str(path)).shape == (64, 64, 3)
