"""The locks name one exact version of everything that pyproject.toml asks for, and of nothing for GPUs alone."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = ("demo", "dev")


def read_lock(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def names_asked_for(extra: str) -> set[str]:
    """Return the packages of the project and of `extra`, following extras that name others."""
    names: set[str] = set()
    for requirement in [*PROJECT["dependencies"], *EXTRAS[extra]]:
        if others := re.match(r"loopwright\[(.+)]", requirement):
            names.update(name for other in others[1].split(",") for name in names_asked_for(other))
        else:
            names.add(re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-"))
    return names


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_an_exact_pin(name: str) -> None:
    loose = [line for line in read_lock(name) if not re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; .+)?", line)]
    assert loose == []


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("name", LOCKS)
def test_no_package_is_pinned_twice(name: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [line.partition(" ; ") for line in read_lock(name)]
    names = [
        pin.partition("==")[0] for pin, _, marker in pins if not marker or Marker(marker).evaluate(dict(environment))
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_what_the_project_asks_for(name: str) -> None:
    assert names_asked_for(name) - {line.partition("==")[0] for line in read_lock(name)} == set()


@pytest.mark.parametrize("name", LOCKS)
def test_which_cuda_packages_torch_needs_is_left_to_torch(name: str) -> None:
    assert [line for line in read_lock(name) if line.startswith(("nvidia-", "cuda-", "triton"))] == []
    assert "torch==2.13.0" in read_lock(name)


def test_demo_runs_on_what_the_tests_ran_on() -> None:
    # Without the markers: what only one platform needs for the demo, all may need for developing.
    demo, dev = ({line.partition(" ;")[0] for line in read_lock(name)} for name in LOCKS)
    assert demo <= dev
