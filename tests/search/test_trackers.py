"""A search as TensorBoard, MLflow and W&B show it, read back with their own readers."""

from __future__ import annotations

from collections import Counter

import pytest

from loopwright.journal.reader import JournalReader
from tests.search.searching import build, sampler, space
from tests.trackers import readback
from tests.trackers.mlflow_service import databases
from tests.trackers.wandb_journal import local_files, recorded_points

NUM_TRIALS = 2


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return the place of one search that reports to all three."""
    place = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "WANDB_RUN_GROUP", "WANDB_RUN_ID", "WANDB_NAME"):
            patch.delenv(name, raising=False)
        patch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", databases().copy(place / "mlflow.db"))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(place))
        for name in ("CACHE", "CONFIG", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(place / name.lower()))
        trainer = build(place / "out", report_to=["tensorboard", "mlflow", "wandb"], save_strategy="no")
        trainer.hyperparameter_search(space, n_trials=NUM_TRIALS, sampler=sampler())
    return place


def trials(place):
    """Return each trial's run and the points of its journal."""
    found = []
    for number in range(NUM_TRIALS):
        directory = place / "out" / f"run-{number}"
        with JournalReader(directory) as reader:
            (run,) = reader.runs()
        found.append((run, readback.journal(directory)))
    return found


def test_tensorboard_has_a_folder_for_each_trial_in_one_place(searched):
    (place,) = (searched / "out" / "runs").iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["run-0", "run-1"]
    for run, points in trials(searched):
        assert readback.tensorboard(place / run.trial_name) == readback.as_float32(points)


def test_mlflow_nests_the_trials_below_the_search(searched):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{searched / 'mlflow.db'}")
    found = {run.data.tags["loopwright.run_id"]: run for run in client.search_runs(["0"])}
    assert len(found) == 1 + NUM_TRIALS
    for run, _ in trials(searched):
        parent, child = found[run.search_id], found[run.id]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (child.info.run_name, child.info.status) == (run.trial_name, "FINISHED")
        assert child.data.params["learning_rate"] == str(run.trial_parameters["learning_rate"])
        assert history(client, child) == readback.journal_by_millisecond(searched / "out" / run.trial_name)
    assert (parent.info.run_name, parent.info.status, parent.data.metrics) == ("out", "FINISHED", {})


def history(client, run):
    found = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault((name, metric.step), Counter())[metric.value] += 1
    return found


def test_wandb_groups_the_trials(searched):
    for run, _ in trials(searched):
        (folder,) = (searched / "wandb").glob(f"*-{run.id}")
        single = searched / "one" / run.trial_name / "wandb"
        single.mkdir(parents=True)
        (single / folder.name).symlink_to(folder)
        found = local_files(single.parent)
        shown = found.run
        assert (shown.run_id, shown.run_group, shown.display_name, shown.job_type) == (
            *(run.id, "out", run.trial_name, "trial"),
        )
        assert found.config["learning_rate"] == run.trial_parameters["learning_rate"]
        assert found.config["loopwright/parent_run_id"] == run.search_id
        assert found.points == recorded_points(searched / "out" / run.trial_name)
