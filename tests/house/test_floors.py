"""The floors hold, are the ones that are drawn, and the rule that holds them bites."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINTER, "--no-cache"],
        cwd=directory,
        env={"PYTHONPATH": "src"},  # before the project that is installed
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def copy_of_the_house(directory: Path) -> Path:
    shutil.copytree(ROOT / "src", directory / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def test_imports_only_go_down() -> None:
    finished = lint_imports(ROOT)
    assert finished.returncode == 0, finished.stdout


def test_import_going_up_is_found(tmp_path: Path) -> None:
    house = copy_of_the_house(tmp_path)
    with (house / "src/loopwright/errors.py").open("a", encoding="utf-8") as file:
        file.write("\nimport loopwright.state\n")
    finished = lint_imports(house)
    assert finished.returncode == 1
    assert "loopwright.errors is not allowed to import loopwright.state" in finished.stdout


def test_new_module_must_be_given_a_floor(tmp_path: Path) -> None:
    house = copy_of_the_house(tmp_path)
    (house / "src/loopwright/newcomer.py").write_text('"""No floor."""\n', encoding="utf-8")
    finished = lint_imports(house)
    assert finished.returncode == 1
    assert "newcomer" in finished.stdout


def test_architecture_draws_the_floors_that_are_held() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    held = [{room for room in layer.split(" | ") if not room.startswith("(")} for layer in layers]
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    # A floor: its number, its rooms with bars between them, two spaces or more, what they are for.
    drawn = re.findall(r"^ ?\d+  (\w+(?: \| \w+)*)(?:  .*)?$", page, flags=re.MULTILINE)
    assert [set(floor.split(" | ")) for floor in drawn] == [rooms for rooms in held if rooms]
