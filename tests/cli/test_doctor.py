"""`loopwright doctor`, as a process: what it finds, what it never shows, and when it ends with 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from loopwright.trackers.readiness import Package, examine
from loopwright.trackers.registry import listed_trackers
from tests.cli.running import loopwright, require_harmless

SECRET = "sesame-0123456789-0123456789-0123456789-sesame"
CREDENTIALS = {
    "wandb": {"WANDB_API_KEY": SECRET},
    "comet_ml": {"COMET_API_KEY": SECRET},
    "clearml": {"CLEARML_API_ACCESS_KEY": SECRET, "CLEARML_API_SECRET_KEY": SECRET},
    "neptune": {"NEPTUNE_API_TOKEN": SECRET},
    "swanlab": {"SWANLAB_API_KEY": SECRET},
    "mlflow": {"MLFLOW_TRACKING_TOKEN": SECRET},
    "dagshub": {"DAGSHUB_USER_TOKEN": SECRET},
    "trackio": {"TRACKIO_WRITE_TOKEN": SECRET},
    "azure_ml": {"AZUREML_RUN_TOKEN": SECRET},
}


@pytest.fixture
def alone(tmp_path):
    """Variables of a machine on which nobody has logged in anywhere."""
    return {"HOME": str(tmp_path), "WANDB_MODE": "", "XDG_CACHE_HOME": str(tmp_path)}


def doctor(directory, variables):
    finished = loopwright("doctor", directory, "--json", variables=variables)
    return finished.returncode, json.loads(finished.stdout)


def test_it_finds_versions_disk_and_trackers(tmp_path, alone):
    status, found = doctor(tmp_path, alone)
    assert (status, found["problems"]) == (0, [])
    assert found["torch"]["version"] == torch.__version__
    assert found["directory"]["journal"] == "journal.db"
    assert found["directory"]["free_space"] > 0
    assert found["system"]["has_terminal"] is False
    trackers = {tracker["name"]: tracker for tracker in found["trackers"]}
    assert trackers.keys() == listed_trackers().keys()
    assert trackers["tensorboard"]["state"] == "ready"
    assert trackers["wandb"]["goes"] == "offline"
    assert trackers["azure_ml"] | {"packages": 0, "credentials": 0} == {
        "name": "azure_ml",
        "state": "off",
        "reason": "the program is in no Azure ML job (AZUREML_RUN_ID is not set)",
        "goes": None,
        "packages": 0,
        "credentials": 0,
    }
    assert all(package["fits"] for tracker in found["trackers"] for package in tracker["packages"])


def test_credentials_are_found_and_never_shown(tmp_path, alone):
    variables = alone | {name: text for names in CREDENTIALS.values() for name, text in names.items()}
    for words in (["--json"], []):
        finished = loopwright("doctor", tmp_path, *words, variables=variables)
        assert SECRET not in finished.stdout + finished.stderr
        assert "sesame" not in finished.stdout + finished.stderr
    _, found = doctor(tmp_path, variables)
    present = {
        tracker["name"] for tracker in found["trackers"] if any(one["is_present"] for one in tracker["credentials"])
    }
    assert present == set(CREDENTIALS)
    goes = {tracker["name"]: tracker["goes"] for tracker in found["trackers"]}
    assert (goes["wandb"], goes["comet_ml"], goes["clearml"], goes["swanlab"]) == ("server",) * 4


def test_a_login_in_a_file_is_found(tmp_path, alone):
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRET}")
    (tmp_path / ".comet.config").write_text("[comet]\nworkspace=nobody\n")  # no key
    _, found = doctor(tmp_path, alone)
    trackers = {tracker["name"]: tracker for tracker in found["trackers"]}
    assert {"source": "~/.netrc", "is_present": True} in trackers["wandb"]["credentials"]
    assert not any(one["is_present"] for one in trackers["comet_ml"]["credentials"])


def test_what_switches_a_tracker_off_and_what_cannot_be_understood_is_said(tmp_path, alone):
    variables = alone | {"WANDB_DISABLED": "true", "DISABLE_MLFLOW_INTEGRATION": "perhaps", "NEPTUNE_MODE": "debug"}
    status, found = doctor(tmp_path, variables)
    assert status == 0, "a training goes on without them"
    states = {tracker["name"]: (tracker["state"], tracker["reason"]) for tracker in found["trackers"]}
    assert states["wandb"] == ("off", "WANDB_DISABLED says so")
    assert states["neptune"][0] == "off"
    assert states["mlflow"][0] == "misconfigured"
    assert "DISABLE_MLFLOW_INTEGRATION='perhaps'" in states["mlflow"][1]


def test_a_directory_that_cannot_be_written_ends_with_1_and_nothing_is_made(tmp_path, alone):
    (tmp_path / "file").write_text("")
    finished = loopwright("doctor", tmp_path / "file" / "out", variables=alone)
    assert finished.returncode == 1
    assert "a training would break here: " in finished.stdout
    assert loopwright("doctor", tmp_path / "not" / "yet", variables=alone).returncode == 0
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["file"]


def test_a_broken_torch_ends_with_1(tmp_path, alone):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libtorch_cpu.so: cannot open [red]')")
    finished = loopwright("doctor", tmp_path, variables=alone | {"PYTHONPATH": str(tmp_path)})
    assert finished.returncode == 1, finished.stderr
    assert "torch can't be used: OSError: libtorch_cpu.so: cannot open [red]" in finished.stdout
    require_harmless(finished.stdout)


def test_no_sdk_is_imported_and_nothing_is_connected_to(tmp_path, alone):
    program = (
        "import socket, sys\n"
        "def refuse(*words): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = refuse\n"
        "from loopwright.trackers.readiness import examine\n"
        "from loopwright.trackers.registry import BUILT_IN\n"
        "states = [examine(one).state for one in BUILT_IN]\n"
        "heavy = {'torch', 'transformers', *(one.sdk.split('.')[0] for one in BUILT_IN)} & set(sys.modules)\n"
        "print(heavy, 'misconfigured' in states)"
    )
    environment = {**os.environ, **alone}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout == "set() False\n", said.stderr


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_fits_the_terminal(tmp_path, alone, columns):
    finished = loopwright("doctor", tmp_path, variables=alone, columns=columns)
    assert finished.returncode == 0, finished.stderr
    assert max(map(len, finished.stdout.splitlines())) <= columns


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.1.12", "<2.2,>=2.1", True),
        ("2.2", "<2.2,>=2.1", False),
        ("2.0.9", "<2.2,>=2.1", False),
        ("1.61.0.post4", "<1.62,>=1.61", True),
        ("3.0", ">=3.0", True),
        ("3", ">=3.0", True),
        ("10.0", ">=9", True),
        (None, ">=1", False),
    ],
)
def test_versions_are_compared_as_numbers(version, wanted, fits):
    assert Package("some", version, wanted).fits is fits


def test_a_tracker_without_its_sdk_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = examine(listed_trackers()["wandb"])
    assert (found.state, found.reason) == ("not installed", 'pip install "loopwright[wandb]"')
