"""Every block of Python in the pages runs, and every command that they type is one that there is."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from loopwright.cli.main import app
from tests.docs.blocks import PAGES, ROOT, blocks_of, commands, python_blocks

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# test_start.py reads the page of the five-minute start, which trains for longest.
WITH_PYTHON = [page for page in PAGES if python_blocks(page) and page.name != "start.md"]
MOST_NOT_RUN = 3  # of all pages: a marker is for what no machine of ours has


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_blocks_of_a_page_run_one_after_another(reader, page):
    reading = reader.read(name_of(page))
    assert reading.exit == 0, reading.said


def test_a_block_that_fails_is_told_by_page_and_line(reader, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\nassert x == 2\n```\n", encoding="utf-8")
    reading = reader.read(str(page))
    assert reading.exit == 1
    assert 'page.md", line 5' in reading.said


def test_few_blocks_are_not_run_and_each_says_why():
    reasons = [block.reason for page in PAGES for block in blocks_of(page) if block.reason]
    assert len(reasons) <= MOST_NOT_RUN
    assert all(len(reason) > 20 for reason in reasons)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_marker_stands_before_a_block(page):
    markers = page.read_text(encoding="utf-8").count("<!-- not run:")
    assert markers == sum(bool(block.reason) for block in blocks_of(page))


def parse(words: list[str]) -> None:
    """Let the command line take `words` as it would, short of doing it."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("loopwright", list(words), resilient_parsing=False)
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_a_page_types_are_understood(page):
    for line, words in commands(page):
        # Those of completion act while they are parsed, one of them on the home of whoever runs this.
        if words[0] == "loopwright" and "completion" not in " ".join(words):
            try:
                parse(shlex.split(" ".join(words[1:])))
            except Exception as error:
                pytest.fail(f"{name_of(page)}, line {line}: {' '.join(words)}: {error!r}")


def test_a_command_that_there_is_not_is_found():
    with pytest.raises(Exception, match="No such command"):
        parse(["no-such-command", "out"])
    with pytest.raises(Exception, match="No such option"):
        parse(["runs", "out", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_that_a_page_installs_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = {extra for found in re.findall(r"(?:loopwright|\.)\[([\w,]+)\]\"", text) for extra in found.split(",")}
    assert named <= set(EXTRAS)
