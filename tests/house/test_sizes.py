"""Rooms stay small; what doesn't fit says which room is missing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "loopwright"
FILES = sorted(SOURCE.rglob("*.py"))
FACADE = SOURCE / "trainer.py"


def num_statements(function: ast.FunctionDef) -> int:
    inner = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    return len(inner) - 1 - (ast.get_docstring(function) is not None)


def functions_of(file: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]


def name_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("file", [file for file in FILES if file != FACADE], ids=name_of)
def test_file_has_at_most_400_lines(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_functions_have_at_most_40_statements(file: Path) -> None:
    assert [function.name for function in functions_of(file) if num_statements(function) > 40] == []


def test_methods_of_the_facade_hand_on() -> None:
    # It has all of transformers' public methods and hooks, signatures and docstrings; so its lines say little, and its
    # bodies are what must stay short.
    long = [function.name for function in functions_of(FACADE) if num_statements(function) > 15]
    assert long == ["__init__"]
    assert len(FACADE.read_text("utf-8").splitlines()) <= 600
