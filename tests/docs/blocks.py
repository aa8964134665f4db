"""Find the code blocks of the pages, and what is said about each: which page, which line, and why one can't be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "README.ko.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
# A block is indented where it belongs to an item of a list.
BLOCK = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^\n]+?) -->\n\n?)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    flags=re.MULTILINE | re.DOTALL,
)
SHELLS = ("console", "bash")


@dataclass(frozen=True)
class Block:
    """A piece of code in a page.

    Attributes:
        page: The page, from the project's root.
        line: The number of its first line in the page.
        language: What the page says behind the three ticks.
        text: The code.
        reason: Why it can't be run here; empty where it can.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str


def blocks_of(page: Path) -> list[Block]:
    """Return a page's code blocks in their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        indent = len(match["indent"])
        lines = [line[indent:] for line in match["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start("text")) + 1
        name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.as_posix()
        found.append(Block(name, line, match["language"], "".join(lines), match["reason"] or ""))
    return found


def python_blocks(page: Path) -> list[Block]:
    """Return the blocks of Python that can be run, in their order."""
    return [block for block in blocks_of(page) if block.language == "python" and not block.reason]


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """Return what a page types into a shell: line number, and the words of one command, comments left out."""
    found = []
    for block in blocks_of(page):
        if block.language in SHELLS:
            lines = block.text.splitlines()
            typed = [line for line in lines if line.startswith("$ ")] or lines
            for line in typed:
                words = line.removeprefix("$ ").partition("  #")[0].partition(" #")[0].split()
                if words:
                    found.append((block.line + lines.index(line), words))
    return found
