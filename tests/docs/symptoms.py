"""Collect what the code can say, so that a page which quotes it can be held to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "loopwright"
GAP = "…"  # what differs from case to case, in the code as in the page


def said_by_the_code() -> list[str]:
    """Return the texts of the code, those that are written in pieces put together, values being gaps."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [text for node in ast.walk(tree) if (text := _text(node))]
    return found


def _text(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[.\d]*[sdrfg]", GAP, text)
        case ast.JoinedStr(values=values):
            return "".join(map(_text, values))
        case ast.FormattedValue():
            return GAP
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case _:
            return GAP if isinstance(node, ast.expr) else ""


def is_said(quoted: str, texts: list[str]) -> bool:
    """Return whether one of `texts` holds the pieces of `quoted`, in their order."""
    pieces = [re.escape(piece.strip()) for piece in quoted.split(GAP) if piece.strip()]
    pattern = re.compile(".*?".join(pieces), flags=re.DOTALL)
    return any(pattern.search(text) for text in texts)


def symptoms(page: Path) -> list[str]:
    """Return what a page quotes: code in bold."""
    bold = re.findall(r"\*\*(.+?)\*\*", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    quoted = [" ".join(code.split()) for text in bold for code in re.findall(r"`([^`]+)`", text)]
    return [text for text in quoted if " " in text]
