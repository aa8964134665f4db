"""The wheel, in an environment that holds the core's packages and no others, does what it is for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
LOCK = ROOT / "requirements" / "dev.lock"
PROGRAM = Path(__file__).with_name("program.py")
LEAST_TYPED = 0.98  # 98.9 % when this was written
# What the core may bring besides itself; a package that isn't here is a new dependency, and a decision.
CORE = {"loopwright", "torch", "numpy", "safetensors", "tqdm", "xxhash", "typer", "rich"}


def run(*command: str | Path, **options) -> str:
    finished = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=280, check=False, **options
    )
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: what a build leaves behind is no business of the repository's."""
    copy = tmp_path_factory.mktemp("source") / "loopwright"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The wheel and what it asks for, in the lock's versions; from the cache where they are in it."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    run(UV, "venv", "--offline", "--python", sys.executable, folder)
    install = (UV, "pip", "install", "--python", folder / "bin" / "python", "--constraints", LOCK, wheel)
    from_cache = subprocess.run([*install, "--offline"], capture_output=True, timeout=280, check=False)
    if from_cache.returncode != 0:
        run(*install)
    return folder


def outside(environment, tmp_path):
    """Return options for a process to which neither the repository nor other packages can be seen."""
    names = {"PATH": f"{environment / 'bin'}:{os.defpath}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    return {"cwd": tmp_path, "env": names}


def test_wheel_holds_the_package_its_marker_of_types_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "loopwright/py.typed" in names
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/loopwright").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == {*sources, "loopwright/cli/programs/digits.py"}
    assert {name.partition("/")[0] for name in names} == {"loopwright", "loopwright-0.1.0.dist-info"}


def test_environment_holds_the_core_alone(environment):
    listed = run(UV, "pip", "list", "--python", environment / "bin" / "python", "--format", "json")
    names = {package["name"] for package in json.loads(listed)}
    assert names >= CORE
    assert names.isdisjoint({"transformers", "accelerate", "wandb", "mlflow", "tensorboard", "optuna", "pytest"})


def test_a_training_runs_and_goes_on_from_outside_the_repository(environment, tmp_path):
    options = outside(environment, tmp_path)
    shutil.copy(PROGRAM, tmp_path / "program.py")
    said = json.loads(run("python", "program.py", "out", **options).splitlines()[-1])
    assert said["where"].startswith(str(environment))
    assert said["step"] == 16
    assert said["best"] < 20
    listing = json.loads(run("loopwright", "runs", "out", "--json", **options))
    assert [attempt["status"] for attempt in listing[0]["attempts"]] == ["completed"]
    run("loopwright", "verify", "out", **options)


def test_commands_and_names_are_there(environment, tmp_path):
    options = outside(environment, tmp_path)
    assert "sync" in run("loopwright", "--help", **options)
    assert re.match(r"loopwright \d", run("loopwright", "--version", **options))
    everything = "import loopwright, loopwright.integrations as i; [getattr(loopwright, n) for n in loopwright.__all__]"
    run("python", "-W", "error", "-c", f"{everything}; [getattr(i, n) for n in i.__all__]", **options)


def test_type_checkers_know_the_types_of_nearly_everything(environment, tmp_path):
    options = outside(environment, tmp_path)
    pyright = Path(sys.executable).with_name("pyright")
    finished = subprocess.run(
        [pyright, "--verifytypes", "loopwright", "--ignoreexternal", "--outputjson"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,  # it exits with 1 below 100 %
        **options,
    )
    found = json.loads(finished.stdout)["typeCompleteness"]
    counts = found["exportedSymbolCounts"]
    assert sum(counts.values()) > 2000
    unclear = [symbol["name"] for symbol in found["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert found["completenessScore"] >= LEAST_TYPED, unclear
