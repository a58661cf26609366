"""What the documents name is there: commands that parse, configurations and keys that are read, files behind links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest

from littlecascade.checkpoint.places import VERSIONS
from littlecascade.cli.main import COMMANDS
from littlecascade.cli.parser import Parser
from littlecascade.errors import InputError
from littlecascade.training.config_file import load_config
from littlecascade.training.kinds import KINDS, kind_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = {path.name: path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}

each_document = pytest.mark.parametrize("name", DOCUMENTS)


def command_lines(text: str) -> Iterator[str]:
    """The command lines of a document: in fenced blocks those that begin a line, elsewhere whole code spans."""
    prose = text
    for block in re.findall(r"^```(?:bash|powershell)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^(?:\$ )?littlecascade (.+?)(?:\s+#.*)?$", block, re.MULTILINE)
        prose = prose.replace(block, "")
    yield from re.findall(r"`littlecascade ([a-z][^`]*)`", prose.replace("\n", " "))


def parse(line: str) -> None:
    words = shlex.split(line)
    subparsers = Parser(prog="littlecascade").add_subparsers(parser_class=Parser)
    COMMANDS[words[0]].add_parser(subparsers).parse_args(words[1:])


def wrong(line: str) -> str | None:
    """What is said of a command line that does not parse."""
    try:
        parse(line)
    except InputError as error:
        return str(error)
    return None


@each_document
def test_commands_parse(name: str) -> None:
    lines = command_lines(DOCUMENTS[name])
    names = r"[a-z]+|(data|lora|models) [a-z]+"
    assert {
        line: said for line in lines if " | " not in line and not re.fullmatch(names, line) if (said := wrong(line))
    } == {}


def test_a_command_that_is_none_would_be_found() -> None:
    (line,) = command_lines("say `littlecascade generate x --stpes 3`, or\n```\nnothing\n```\n")
    with pytest.raises(Exception, match="--steps"):
        parse(line)


@each_document
def test_links_lead_to_files_and_pictures_are_small(name: str) -> None:
    folder = ROOT if name == "README.md" else ROOT / "docs"
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", DOCUMENTS[name])
    assert [target for target in targets if not (folder / target).exists()] == []


@each_document
def test_training_configurations_load(name: str) -> None:
    paths = {ROOT / path for path in re.findall(r"configs/training/\w+\.yaml", DOCUMENTS[name])}
    kinds = {path: KINDS[kind_of(path)] for path in paths}
    assert {path: type(load_config(kind, path)) for path, kind in kinds.items()} == kinds


def values(kind: Any) -> Iterator[str]:
    """The words that a key may have as its value."""
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) is UnionType or get_args(kind):
        for part in get_args(kind):
            yield from values(part)


def test_what_others_are_told_to_write_is_known() -> None:
    """The code spans in the last columns of docs/coming-from.md: keys, with or without a value, and values."""
    fields = {name: field.annotation for cls in KINDS.values() for name, field in cls.model_fields.items()}
    known = {*fields, *KINDS, *VERSIONS, *(word for kind in fields.values() for word in values(kind))}
    rows = re.findall(r"^\|.*\|(.*)\|$", DOCUMENTS["coming-from.md"], re.MULTILINE)
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    assert len(spans) > 80
    for span in spans:
        if span.startswith(("littlecascade ", "--", ".", "train ", "s3://")):
            continue
        key, colon, value = span.partition(": ")
        assert key in known, span
        if colon and not value.startswith("["):
            options = set(values(fields[key]))
            assert not options or value in options, span


def test_the_settings_of_the_first_lora_are_settings(documents: Any, tmp_path: Path) -> None:
    documents.write_files(DOCUMENTS["first-lora.md"], tmp_path)
    written = sorted(tmp_path.glob("*.yaml"))
    assert [path.name for path in written] == ["rex.yaml", "rex_1b.yaml"]
    for path in written:
        config = load_config(KINDS["lora"], path)
        assert config.remarks() == []
        assert ("[rex]", "^dog</w>") in config.train_tokens


def table(text: str, first: str) -> list[list[str]]:
    """The rows below a table's head, by the head's first cells."""
    rows = text.split(f"\n| {first}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_readme_has_the_memory_that_is_counted_in_the_documents() -> None:
    text = DOCUMENTS["memory.md"]
    drawing = {re.sub(r", no bfloat16|\(.*\)", "", row[0]).strip(): row[1:] for row in table(text, "GPU | lite")}
    training = {tuple(row[:2]): row[2:] for row in table(text, "task | size | 6 GB")}
    columns = [training[key] for key in (("lora", "1B"), ("lora", "3.6B"), ("c", "1B"), ("c", "3.6B"))]
    for number, (name, *cells) in enumerate(table(DOCUMENTS["README.md"], "GPU | draw")):
        card = re.sub(r" \(.*", "", name)
        ways = [re.sub(r".*, (\S+) GiB", r"\1", way) for way in drawing[card]]
        assert [cell.split()[0] for cell in cells[:2]] == ways
        assert ["int8" in cell for cell in cells[:2]] == ["int8" in way for way in drawing[card]]
        assert cells[2:] == [column[number].split()[0].strip(":") for column in columns]
