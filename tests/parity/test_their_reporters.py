"""The reporters of transformers.integrations in our Trainer: each service holds every number that was logged.

Each runs in a process of its own, as SDKs keep much for the whole process, and all that can be constructed with what
is installed are here: not AzureML's, which needs the SDK before the present one, nor Neptune's, whose client is no
longer kept, nor Flyte's, which asks for a plug-in. Models are left out where their callback can't store them: W&B's
makes a transformers.Trainer of the arguments it is given, and ClearML's asks its own offline model what it can't say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from loopwright.trackers.naming import group_name
from loopwright.trackers.wandb_files import read_rows
from tests.trackers import readback
from tests.trackers.places import clearml, codecarbon, comet_ml, dvclive, place_of, swanlab, trackio

ROOT = Path(__file__).parents[2]
NAMES = ("loss", "grad_norm", "learning_rate", "eval_loss")
# "eval/loss" and the like, except where a service is given them as they are.
AS_THEY_ARE = ("mlflow",)


def train(name: str, directory: Path, variables: Mapping[str, str]) -> list[dict[str, Any]]:
    """Train with the callback of this name, and return what was logged."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.parity.their_reporter", name, str(directory / "out")],
        cwd=directory,
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr
    lines: list[dict[str, Any]] = json.loads((directory / "out" / "history.json").read_text())
    return lines


def wandb_points(directory: Path) -> dict[tuple[str, int], float]:
    """Return the points by the step that W&B shows them at: the callback's own."""
    (path,) = directory.rglob("*.wandb")
    rows = [row for _, row in read_rows(path) if "train/global_step" in row]
    return {(name, int(row["train/global_step"])): value for row in rows for name, value in row.items()}


def clearml_points(cache: Path) -> dict[tuple[str, int], Any]:
    (folder,) = clearml.folders_in(cache)
    return {(f"{title}/{series}", step): value for title, series, step, _, value in clearml.points_in(folder)}


HELD = {
    "tensorboard": ("TensorBoardCallback", lambda directory: readback.tensorboard(directory / "out" / "runs")),
    "mlflow": ("MLflowCallback", lambda directory: readback.mlflow(f"sqlite:///{directory}/mlflow.db")),
    "dvclive": ("DVCLiveCallback", lambda directory: dvclive.read_back(directory / "dvclive")),
    "wandb": ("WandbCallback", wandb_points),
    "comet_ml": ("CometCallback", lambda directory: comet_ml.points_in(directory / "comet")),
    "clearml": ("ClearMLCallback", lambda directory: clearml_points(directory / "clearml-cache")),
    "swanlab": ("SwanLabCallback", lambda directory: swanlab.points_in(directory / "swanlog")),
    "trackio": ("TrackioCallback", lambda directory: trackio.points(trackio.rows_in(directory / "trackio"))),
}


@pytest.mark.parametrize("name", HELD)
def test_a_service_is_told_every_number(name, tmp_path):
    callback, points_in = HELD[name]
    place = place_of(name, tmp_path)
    variables = place.environment() | {"WANDB_LOG_MODEL": "false", "CLEARML_LOG_MODEL": "false"}
    lines = train(callback, tmp_path, variables)
    expected = {
        (key if name in AS_THEY_ARE else group_name(key), line["step"]): line[key]
        for line in lines
        for key in NAMES
        if key in line
    }
    assert len(expected) == 4 * 3 + 3  # a line every second of nine steps, and three evaluations
    found = {place: only(value) for place, value in points_in(tmp_path).items() if place in expected}
    # In single precision in TensorBoard and ClearML.
    assert found == {place: pytest.approx(value, rel=1e-6) for place, value in expected.items()}


def only(value: Any) -> float:
    """Return a point's only value, which some readers count."""
    if isinstance(value, Counter):
        ((value, times),) = value.items()
        assert times == 1
    return float(value)


def test_emissions_are_measured(tmp_path):
    train("CodeCarbonCallback", tmp_path, place_of("codecarbon", tmp_path).environment())
    (row,) = codecarbon.rows(tmp_path / "out")
    assert float(row["duration"]) > 0


def test_dagshub_has_the_files_and_mlflow_behind_it_the_numbers(tmp_path):
    place = place_of("dagshub", tmp_path)
    variables = place.environment()
    login = {"MLFLOW_TRACKING_USERNAME": variables["DAGSHUB_USER_TOKEN"]}
    login |= {"MLFLOW_TRACKING_PASSWORD": variables["DAGSHUB_USER_TOKEN"]}  # as `dagshub.init` sets them
    try:
        lines = train("DagsHubCallback", tmp_path, variables | login)
        dagshub, mlflow = place.running
        points = readback.mlflow(mlflow.uri)
    finally:
        place.close()
    assert [only(points["loss", line["step"]]) for line in lines if "loss" in line] == [
        line["loss"] for line in lines if "loss" in line
    ]
    assert {Path(path).name for path in dagshub.branches["main"]} >= {"model.safetensors", "trainer_state.json"}


def test_a_cluster_of_kubeflow_is_told_how_far_it_is(tmp_path):
    told: list[dict[str, Any]] = []

    class Controller(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.headers["Authorization"] == "Bearer s3cret"
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["trainerStatus"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            """Be quiet."""

    (tmp_path / "token").write_text("s3cret\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Controller) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        variables = {"KUBEFLOW_TRAINER_SERVER_URL": url, "KUBEFLOW_TRAINER_SERVER_TOKEN": str(tmp_path / "token")}
        lines = train("KubeflowCallback", tmp_path, variables)
        server.shutdown()
    assert [status["progressPercentage"] for status in (told[0], told[-1])] == [0, 100]
    assert {"name": "train_loss", "value": str(lines[-1]["train_loss"])} in told[-1]["metrics"]
