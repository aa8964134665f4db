"""The packages of every extra are there, in versions that it asks for, and can be imported."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# Of several names that a package brings, or where it is called otherwise than its module.
MODULES = {
    "azureml-core": "azureml.core",
    "azureml-mlflow": "azureml.mlflow",
    "pytorch-ignite": "ignite",
    "mkdocs-material": "material",
    "ipykernel": "ipykernel",
    "pytest-timeout": "pytest_timeout",
    "pytest-xdist": "xdist",
    "import-linter": "importlinter",
    "pre-commit": "pre_commit",
    "pyopenssl": "OpenSSL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "types-pyyaml": None,  # types alone: nothing to import
    "types-tqdm": None,
}


def requirements(extra: str) -> list[Requirement]:
    found = [Requirement(text) for text in EXTRAS[extra]]
    return [one for one in found if one.name != "loopwright" and (one.marker is None or one.marker.evaluate())]


def module_of(name: str) -> str | None:
    return MODULES.get(name.lower(), name.replace("-", "_"))


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_packages_of_an_extra_are_installed_as_it_asks(extra):
    unfit = [str(one) for one in requirements(extra) if importlib.metadata.version(one.name) not in one.specifier]
    assert unfit == []


@pytest.mark.parametrize("extra", sorted(extra for extra in EXTRAS if requirements(extra) and extra not in {"dev"}))
def test_packages_of_an_extra_can_be_imported(extra, tmp_path):
    modules = [module for one in requirements(extra) if (module := module_of(one.name)) is not None]
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]",
            *modules,
        ],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_every_tracker_has_an_extra_and_trackers_are_all_of_them():
    from loopwright.trackers.registry import BUILT_IN

    names = {tracker.name for tracker in BUILT_IN}
    assert names <= set(EXTRAS)
    together = {name for text in EXTRAS["trackers"] for name in re.findall(r"\[(.*)]", text)[0].split(",")}
    assert together == names
