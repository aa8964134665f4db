"""Reporters of the one library in the Trainer of the other: each service holds every number that was logged.

Each runs in a process of its own, as SDKs keep much for the whole process. All of transformers.integrations that can be
constructed with what is installed are here: not AzureML's, which needs the SDK before the present one, nor Neptune's,
whose client is no longer kept, nor Flyte's, which asks for a plug-in. Models are left out where their callback can't
store them: W&B's makes a transformers.Trainer of the arguments it is given, and ClearML's asks its own offline model
what it can't say.
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
from loopwright.trackers.registry import BUILT_IN
from loopwright.trackers.wandb_files import read_rows
from tests.trackers import readback
from tests.trackers.places import clearml, codecarbon, comet_ml, dvclive, place_of, swanlab, trackio

ROOT = Path(__file__).parents[2]
TIMES = {"loss": 4, "grad_norm": 4, "learning_rate": 4, "eval_loss": 3}  # how often each is logged in nine steps
MODELS = ("WANDB_LOG_MODEL", "CLEARML_LOG_MODEL", "HF_DVCLIVE_LOG_MODEL", "HF_MLFLOW_LOG_ARTIFACTS")
# ClearML starts git in a thread while it forks a process for reporting, which may inherit the pipe on which that thread
# waits: then each waits for the other. On a loaded machine every third program ended never.
CLEARML_ASKS_NO_GIT = {"CLEARML_VCS_REPO_URL": "https://127.0.0.1/none"}
# Others name them as `group_name` does.
NAMED = {"mlflow": str, "dvclive": lambda key: key.replace("eval_", "eval/")}


@pytest.fixture(scope="module")
def train():
    """A function that trains in `directory` with a reporter of the other library, and returns what was logged."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.parity.reporter"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    while server.stdout.readline() != "ready\n":  # what is imported may print
        assert server.poll() is None

    def train(
        callback: str, directory: Path, variables: Mapping[str, str], trainer: str = "loopwright"
    ) -> list[dict[str, Any]]:
        order = {"trainer": trainer, "callback": callback, "directory": str(directory), "variables": variables}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "0\n", (directory / "log.txt").read_text()
        return json.loads((directory / "out" / "history.json").read_text())

    yield train
    server.stdin.close()
    assert server.wait(timeout=60) == 0
    server.stdout.close()


def wandb_points(directory: Path) -> dict[tuple[str, int], Any]:
    (path,) = directory.rglob("*.wandb")
    return {(name, step): value for step, row in read_rows(path) for name, value in row.items()}


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
def test_a_service_is_told_every_number(name, train, tmp_path):
    callback, points_in = HELD[name]
    variables = place_of(name, tmp_path).environment() | dict.fromkeys(MODELS, "false") | CLEARML_ASKS_NO_GIT
    lines = train(callback, tmp_path, variables)
    points = points_in(tmp_path)
    named = NAMED.get(name, group_name)
    for key, times in TIMES.items():
        values = [line[key] for line in lines if key in line]
        assert len(values) == times
        # Some services keep single precision.
        assert series(points, named(key)) == pytest.approx(values, rel=1e-6), key


def series(points: Mapping[tuple[str, int], Any], wanted: str) -> list[float]:
    """Return the values of one name by their steps, which some callbacks count for themselves."""
    found: list[float] = []
    for (name, _), value in sorted(points.items(), key=lambda item: item[0]):
        if name == wanted:
            found += map(float, value.elements() if isinstance(value, Counter) else [value])
    return found


def test_emissions_are_measured(train, tmp_path):
    train("CodeCarbonCallback", tmp_path, place_of("codecarbon", tmp_path).environment())
    (row,) = codecarbon.rows(tmp_path / "out")
    assert float(row["duration"]) > 0


def test_dagshub_has_the_files_and_mlflow_behind_it_the_numbers(train, tmp_path):
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
    assert series(points, "loss") == [line["loss"] for line in lines if "loss" in line]
    assert {Path(path).name for path in dagshub.branches["main"]} >= {"model.safetensors", "trainer_state.json"}


def test_a_cluster_of_kubeflow_is_told_how_far_it_is(train, tmp_path):
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


IN_EVERY_RUN = {"mlflow", "tensorboard", "wandb"}


@pytest.mark.parametrize(
    "tracker",
    [
        pytest.param(tracker, id=tracker.name, marks=[] if tracker.name in IN_EVERY_RUN else [pytest.mark.soak])
        for tracker in BUILT_IN
    ],
)
def test_ours_in_their_trainer_has_all_that_counts_in_its_journal(tracker, train, tmp_path):
    place = place_of(tracker.name, tmp_path)
    if place.home == "off":
        pytest.skip("is on in a task alone: its own tests are in one")
    try:
        lines = train(tracker.class_path.rpartition(":")[2], tmp_path, place.environment(), "transformers")
        assert place.num_runs(tmp_path / "out") == 1
        assert place.holds(tmp_path / "out")
    finally:
        place.close()
    recorded = readback.journal(tmp_path / "out")
    for key, times in TIMES.items():
        values = [line[key] for line in lines if key in line]
        assert len(values) == times
        assert series(recorded, group_name(key)) == values
