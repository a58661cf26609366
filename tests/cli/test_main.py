"""What `main` makes of command lines and of failures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from littlecascade.cli import generate
from littlecascade.cli.main import COMMANDS, main
from littlecascade.errors import InputError


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (Path("run"), "run\n"),
        (None, "to go on: littlecascade train c c.yaml --set lr=1e-4 --set batch_size=8 --max-minutes 1.5\n"),
    ],
)
def test_train_passes_its_arguments_on(folder: Path | None, said: str, monkeypatch, capsys) -> None:
    calls = []

    def train(*arguments: object, **named: object) -> Path | None:
        calls.append((*arguments, named))
        return folder

    module = ModuleType("littlecascade.training.run")
    vars(module)["train"] = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = ["train", "c", "c.yaml", "--set", "lr=1e-4", "--set", "batch_size=8", "--max-minutes", "1.5"]
    assert main(line) == 0
    assert calls == [("c", Path("c.yaml"), ["lr=1e-4", "batch_size=8"], 1.5, {"minutes": None, "restart": False})]
    assert capsys.readouterr().out == said


def test_training_that_is_broken_off_says_how_to_go_on(monkeypatch, capsys) -> None:
    def train(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    module = ModuleType("littlecascade.training.run")
    vars(module)["train"] = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = ["train", "lora", "my run.yaml", "--for", "10h", "--restart", "--set", "train_tokens=[['[x]', '^dog']]"]
    assert main(line) == 130
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("littlecascade: interrupted; what was saved stays, and this goes on from there: ")
    command = said.partition("there: ")[2]
    assert shlex.split(command) == ["littlecascade", *line[:3], *line[6:]]  # it began anew, and keeps what fitted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("genrate x", "Did you mean 'generate'?"),
        ("generate x --stpes 3", "Did you mean '--steps'?"),
        ("generate x --sampelr=ddim", "unknown option '--sampelr'. Did you mean '--sampler'?"),
        ("data build x -o x.tar --sise 3", "unknown option '--sise'. Did you mean '--size'? 'littlecascade data build"),
        ("models verify tiny --hashs", "Did you mean '--hashes'?"),
        ("generate x --neg y", "unknown option '--neg'"),  # no abbreviations
        ("generate", "there is no prompt"),
        ("generate x -n 0", "whole number from 1"),
        ("generate x --seed -1", "whole number from 0"),
        ("generate x --seed 9223372036854775808", "whole number from 0 to 9223372036854775807"),
        ("generate x --size 0", "at least 1 pixel"),
        ("generate x --size big", "is not a size in pixels"),
        ("generate x --guidance nan", "not a number of at least 0"),
        ("generate x --guidance-interval 0.8-0.2", "'0.8-0.2' is not an interval between 0 and 1"),
        ("generate x --guidance-interval 0.8", "such as 0.2-0.8"),
        ("generate x -o x.jpg", "written as PNG"),
        ("generate x --save-latents x.pt", "ends in .safetensors"),
        ("generate x --sampler ddmi", "Did you mean 'ddim'?"),
        ("generate x --model tinny", "Did you mean 'tiny'?"),
        ("generate x --device cpuu", "Did you mean 'cpu'?"),
        ("generate (x", "this ( is never closed"),
        ("generate --from missing.png", "there is no picture 'missing.png'"),
        ("generate x --grid steps", "not KEY=VALUE,VALUE, such as steps=5,10,20"),
        ("generate x --grid stpes=1,2", "unknown key 'stpes'. Did you mean 'steps'?"),
        ("generate x --grid decoder-stpes=1", "Did you mean 'decoder-steps'?"),
        ("generate x --grid strength=1", "unknown key 'strength'"),
        ("generate x --grid steps=5,many", "steps: 'many' is not a whole number from 1"),
        ("generate x --grid steps=5,", "steps: '' is not a whole number"),
        ("generate x --grid size=64,big", "'big' is not a size in pixels"),
        ("generate x --grid steps=1,2 --grid steps=3", "steps is given twice"),
        ("generate x --grid steps=1,2 --steps 3", "steps is given twice"),
        ("generate x --grid seed=1,2 -n 2", "give one of the two"),
        ("generate x --grid steps=1,2 --sheet", "not allowed with argument"),
        ("generate x --grid steps=1,2 --save-latents x.safetensors", "not with --grid"),
        ("generate x --grid sampler=ddpm,ddmi", "Did you mean 'ddim'?"),
        ("generate x --grid size=128,7", "7x7 is out of reach"),
        ("vary", "there is no picture to vary"),
        ("vary missing.png", "There is no picture 'missing.png'"),
        ("vary x.png --weights 1,x", "'1,x' are not numbers with commas between them"),
        ("edit x.png", "edit takes a picture and what it is to become"),
        ("edit x.png y --strength 1.5", "'1.5' is not a number above 0 (the same picture) and up to 1"),
        ("edit x.png y --strength -0.1", "'-0.1' is not a number above 0"),
        ("edit x.png y --strength 0", "'0' is not a number above 0"),
        ("edit x.png y --grid strength=0.5,2", "strength: '2' is not a number above 0"),
        ("reconstruct", "there is no picture to reconstruct"),
        ("reconstruct missing.png", "There is no picture 'missing.png'"),
        ("reconstruct x.png --from-latents x", "leave IMAGE out"),
        ("reconstruct --from-latents x.safetensors", "x.safetensors"),
        ("reconstruct x.png --steps 5", "unknown option '--steps'"),  # there is no Stage C in it
        ("train c", "CONFIG"),
        ("train c a.yaml b.yaml", "unexpected argument 'b.yaml'"),
        ("train c c.yaml --set lr", "not KEY=VALUE"),
        ("--vresion", "Did you mean '--version'?"),
    ],
)
def test_mistakes_are_one_line_on_stderr(line: str, said: str, fail) -> None:
    assert said in fail(*line.split())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no."), 2, "no."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device (--debug shows where)"),
    ],
)
def test_failures_are_one_line_and_raise_with_debug(error: BaseException, code: int, line: str, monkeypatch, fail):
    def run(_: object) -> None:
        raise error

    monkeypatch.setattr(generate, "run", run)
    assert fail("generate", "x", code=code) == line
    error.add_note("1 picture is finished")
    assert fail("generate", "x", code=code) == f"{line}; 1 picture is finished"
    for words in (["--debug", "generate", "x"], ["generate", "x", "--debug"]):
        with pytest.raises(type(error)):
            main(words)


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch) -> None:
    monkeypatch.setattr(generate, "run", None)
    with pytest.raises(TypeError):
        main(["generate", "x"])


def test_without_a_command_the_help_is_shown(capsys) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command}" in out for command in COMMANDS)
