"""The same checks everywhere: at a commit, in `make lint` and in CI."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def commands_of(target: str) -> list[str]:
    # Nothing from the make that may have started the tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--assume-old=.venv/dev.ready", target]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return finished.stdout.splitlines()


def test_commit_hooks_run_what_make_lint_runs() -> None:
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in settings["repos"] for hook in repository["hooks"]]
    assert all(repository["repo"] == "local" for repository in settings["repos"])
    assert [hook["entry"] for hook in hooks] == commands_of("lint")


def test_make_test_runs_the_checks_and_every_test() -> None:
    commands = commands_of("test")
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert any(tool in command for command in commands), tool


def test_ci_runs_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"
    assert os.access(script, os.X_OK)
