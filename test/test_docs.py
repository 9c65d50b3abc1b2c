# SPDX-License-Identifier: Apache-2.0
"""What the pages name is there: links, files, modules, launch files, commands and their options."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("edge_nodes/weights/**/*.md")],
    key=lambda page: page.as_posix(),
)
FILE = re.compile(r"(?!demo/)(?:[\w.-]+/)+[\w-]+\.(?:py|cpp|h|md|yaml|xml|json|mcap|sh|toml|txt)")


def code_of(page):
    """The text of a page between backticks, and its indented blocks, line by line."""
    text = page.read_text()
    blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    inline = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [*(" ".join(piece.split()) for piece in inline), *blocks]


def commands(program):
    """(page, words) of each command of the pages that begins with `program`."""
    for page in PAGES:
        for line in code_of(page):
            if line.startswith(program + " "):
                line = re.split(r"\s+#\s|[;&|,]", line)[0]
                yield pytest.param(shlex.split(line), id=f"{page.name}: {line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_are_there(page):
    for piece in code_of(page):
        if FILE.fullmatch(piece):
            assert (ROOT / piece).exists(), f"{page.name}: {piece}"
        for module in re.findall(r"-m ((?:train|bench|edge_nodes)(?:\.\w+)*)", piece):
            assert importlib.util.find_spec(module), f"{page.name}: {module}"


@pytest.mark.parametrize("words", commands("edge-nodes"))
def test_commands_and_options_are_known(words):
    from edge_nodes.cli.app import app

    command, rest = typer.main.get_command(app), words[1:]
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{' '.join(words)}: {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert options <= known | {"--help"}, f"{' '.join(words)}: {options - known}"


@pytest.mark.parametrize("words", commands("ros2 launch"))
def test_launch_files_take_the_arguments(words):
    source = (ROOT / "launch" / words[3]).read_text() + "".join(
        path.read_text() for path in (ROOT / "edge_nodes").glob("*launch*.py")
    )
    for word in words[4:]:
        assert f'"{word.partition(":=")[0]}"' in source or word == "...", f"{words[3]}: {word}"


def test_pages_have_commands():
    assert len(list(commands("edge-nodes"))) > 30
    assert list(commands("ros2 launch"))
