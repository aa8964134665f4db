"""README.md and README.ko.md say the same: headings, code, figures and links are; the prose is people's work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks_of

READMES = (ROOT / "README.md", ROOT / "README.ko.md")
EACH_OTHER = {"README.md", "README.ko.md"}


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(page: Path) -> list[str]:
    """Return the levels of the headings; their words are in two languages."""
    return re.findall(r"^(#+) ", without_code(page), flags=re.MULTILINE)


def code(page: Path) -> list[tuple[str, str]]:
    return [(block.language, block.text) for block in blocks_of(page)]


def links(page: Path) -> list[str]:
    """Return where links lead, each other's page left out; sorted, as the order of a sentence is its language's."""
    return sorted(set(re.findall(r"\]\(([^)\s]+)\)", without_code(page))) - EACH_OTHER)


def cells(page: Path) -> list[list[str]]:
    """Return the figures of the tables, row by row: the head and the first column are words."""
    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", without_code(page), flags=re.MULTILINE)
    rows = [line.strip("|").split("|")[1:] for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


def points(page: Path) -> int:
    return len(re.findall(r"^- \*\*", without_code(page), flags=re.MULTILINE))


@pytest.mark.parametrize("part", [headings, code, links, cells, points])
def test_both_have_the_same(part):
    english, korean = map(part, READMES)
    assert english
    assert korean == english


def test_each_leads_to_the_other():
    english, korean = (page.read_text(encoding="utf-8") for page in READMES)
    assert "](README.ko.md)" in english
    assert "](README.md)" in korean
