"""Whole command lines, with a cascade that draws nothing but remembers what it was asked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

import littlecascade
from littlecascade.cli.main import main
from littlecascade.errors import InputError
from littlecascade.recipe import read_recipe, save_png


class FakeCascade:
    """Stands in for `Cascade`: `asked` holds the model's name and the arguments of `generate`."""

    asked: dict

    @classmethod
    def load(cls, model: str, *, precision: str = "auto") -> FakeCascade:
        cls.asked = {"model": model, "precision": precision}
        return cls()

    def generate(self, prompts, *, n, callback, **settings):
        self.asked.update(prompts=prompts, n=n, **settings)
        count = len(prompts) * n
        callback("c", 1, 1, lambda: Image.new("RGB", (1, 1)))
        images = [Image.new("RGB", (1, 1), (index, 0, 0)) for index in range(count)]
        return SimpleNamespace(
            images=images, recipes=[{"prompt": prompts[i // n], "index": i, "model_digest": "ab"} for i in range(count)]
        )

    def reconstruct(self, image):
        return SimpleNamespace(psnr=24.56, compression_factor=42.4, side_by_side=image)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(littlecascade), "Cascade", FakeCascade)
    return tmp_path


def test_pictures_are_written_with_recipes_and_their_paths_printed(here: Path, capsys) -> None:
    assert main(["generate", "a red apple", "a pear", "-n", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == ["a-red-apple.png", "a-red-apple-2.png", "a-pear.png", "a-pear-2.png"]
    assert err == ""
    assert read_recipe(here / "a-pear.png") == {"prompt": "a pear", "index": 2, "model_digest": "ab"}


def test_only_what_is_given_is_passed_on() -> None:
    assert main(["generate", "x"]) == 0
    assert FakeCascade.asked == {"model": "tiny", "precision": "auto", "prompts": ["x"], "n": 1}


def test_every_option_is_passed_on(capsys) -> None:
    options = "--seed 7 --size 192x128 --steps 9 --sampler ddim --guidance 2.5 --negative blue --model lite -o out"
    assert main(["generate", *options.split(), "x"]) == 0
    settings = {"seed": 7, "size": (192, 128), "steps": 9, "sampler": "ddim", "guidance": 2.5, "negative": "blue"}
    assert FakeCascade.asked == {"model": "lite", "precision": "auto", "prompts": ["x"], "n": 1} | settings
    assert Path(capsys.readouterr().out.strip()) == Path("out/x.png")


def test_a_picture_is_drawn_again_from_its_recipe_and_options_overrule_it(here: Path) -> None:
    recipe = {"prompt": "a cat", "model": "lite", "seed": 3, "size": [64, 64], "steps": 5, "precision": "bfloat16"}
    save_png(Image.new("RGB", (1, 1)), here / "cat.png", recipe)
    assert main(["generate", "--from", "cat.png", "--seed", "4"]) == 0
    settings = {"seed": 4, "size": (64, 64), "steps": 5}
    assert FakeCascade.asked == {"model": "lite", "precision": "bfloat16", "prompts": ["a cat"], "n": 1} | settings


@pytest.mark.parametrize(
    ("digest", "said"), [("ab", ""), ("cd", "littlecascade: cat.png was drawn with other weights of 'tiny'\n")]
)
def test_other_weights_than_the_recipes_are_mentioned(digest: str, said: str, here: Path, capsys) -> None:
    save_png(Image.new("RGB", (1, 1)), here / "cat.png", {"prompt": "a cat", "model_digest": digest})
    assert main(["generate", "--from", "cat.png"]) == 0
    assert capsys.readouterr().err == said


def test_an_empty_prompt_is_drawn_and_mentioned(capsys) -> None:
    assert main(["generate", ""]) == 0
    assert capsys.readouterr() == ("picture.png\n", "littlecascade: an empty prompt draws whatever comes up\n")


def test_reconstruct_writes_and_reports(here: Path, capsys) -> None:
    Image.new("RGB", (4, 2)).save(here / "holiday.jpg")
    assert main(["reconstruct", "holiday.jpg"]) == 0
    assert capsys.readouterr().out == "holiday-reconstruction.png  PSNR 24.6 dB, compressed 42 times\n"
    assert (here / "holiday-reconstruction.png").exists()


@pytest.mark.parametrize(("folder", "said"), [(Path("run"), "run\n"), (None, "stopped: the same command")])
def test_train_passes_its_arguments_on(folder: Path | None, said: str, monkeypatch, capsys) -> None:
    calls = []

    def train(*arguments: object) -> Path | None:
        calls.append(arguments)
        return folder

    module = ModuleType("littlecascade.training.run")
    vars(module)["train"] = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = ["train", "c", "c.yaml", "--set", "lr=1e-4", "--set", "batch_size=8", "--max-minutes", "1.5"]
    assert main(line) == 0
    assert calls == [("c", Path("c.yaml"), ["lr=1e-4", "batch_size=8"], 1.5)]
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("genrate x", "Did you mean 'generate'?"),
        ("generate x --stpes 3", "Did you mean '--steps'?"),
        ("generate x --sampelr=ddim", "unknown option '--sampelr'. Did you mean '--sampler'?"),
        ("generate x --neg y", "unknown option '--neg'"),  # no abbreviations
        ("generate x -n 2 y", "unexpected argument 'y'"),
        ("generate", "there is no prompt"),
        ("generate x -n 0", "whole number from 1"),
        ("generate x --seed -1", "whole number from 0"),
        ("generate x --seed 9223372036854775808", "whole number from 0 to 9223372036854775807"),
        ("generate x --size 0", "at least 1 pixel"),
        ("generate x --size big", "is not a size in pixels"),
        ("generate x --guidance nan", "not a number of at least 0"),
        ("generate x -o x.jpg", "written as PNG"),
        ("generate --from missing.png", "there is no picture 'missing.png'"),
        ("reconstruct missing.png", "There is no picture 'missing.png'"),
        ("train c", "CONFIG"),
        ("train c c.yaml --set lr", "not KEY=VALUE"),
        ("--vresion", "Did you mean '--version'?"),
    ],
)
def test_mistakes_are_one_line_on_stderr(line: str, said: str, capsys) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("littlecascade: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no."), 2, "no."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device (--debug shows where)"),
    ],
)
def test_failures_are_one_line_and_raise_with_debug(error: BaseException, code: int, line: str, monkeypatch, capsys):
    def fail(model: str, *, precision: str) -> None:
        raise error

    monkeypatch.setattr(FakeCascade, "load", fail)
    assert main(["generate", "x"]) == code
    assert capsys.readouterr().err == f"littlecascade: {line}\n"
    for words in (["--debug", "generate", "x"], ["generate", "x", "--debug"]):
        with pytest.raises(type(error)):
            main(words)


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch) -> None:
    monkeypatch.setattr(FakeCascade, "generate", None)
    with pytest.raises(TypeError):
        main(["generate", "x"])


def test_without_a_command_the_help_is_shown(capsys) -> None:
    assert main([]) == 0
    assert "reconstruct" in capsys.readouterr().out
