"""W&B in real trainings: beside the training, and in its process where the program wants the run there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from loopwright import TrainerCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.wandb import WandbCallback
from tests.processes import children_of
from tests.trackers.trainings import build, same_weights, weights
from tests.trackers.wandb_journal import local_files, points_in, recorded_points

pytest_plugins = ("tests.trackers.wandb_fixtures",)
pytestmark = [
    pytest.mark.usefixtures("own_environment"),
    pytest.mark.filterwarnings(
        "ignore:Exception in thread (NetStatThr|IntMsgThr|ChkStopThr):pytest.PytestUnhandledThreadExceptionWarning"
    ),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(tmp_path):
    """Return a function that trains with the given callbacks, and returns the Trainer."""
    trainers = []

    def train(*callbacks, **arguments):
        trainer = build(
            tmp_path / "out",
            callbacks=callbacks,
            **{"tracker_call_timeout": 30, "tracker_open_timeout": 60, "tracker_close_timeout": 60, **arguments},
        )
        trainers.append(trainer)
        trainer.train()
        return trainer

    yield train
    for trainer in trainers:
        trainer.reporting.close()


def run_program(text, tmp_path, **environment):
    """Run a program; return its status, and what it wrote to standard output and error."""
    program = tmp_path / "program.py"
    program.write_text(text)
    return run([str(program)], tmp_path, **environment)


def run(arguments, tmp_path, **environment):
    # To files: a wandb-core that outlives the program would hold a pipe open.
    with (tmp_path / "stdout").open("w") as stdout, (tmp_path / "stderr").open("w") as stderr:
        command = [sys.executable, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        status = subprocess.run(command, env=environment, stdout=stdout, stderr=stderr, timeout=150, check=False)
    return status.returncode, (tmp_path / "stdout").read_text(), (tmp_path / "stderr").read_text()


# Beside the training

BESIDE = """
import sys
from tests.trackers.trainings import build
if __name__ == "__main__":
    trainer = build("out", report_to="wandb", run_name="beside", save_steps=6, tracker_close_timeout=60,
                    tracker_call_timeout=60, eval_strategy="epoch", num_train_epochs=2)
    trainer.train()
    trainer.evaluate()
    assert not {"wandb"} & set(sys.modules), "the training imports no SDK"
"""


def test_training_imports_no_sdk_and_everything_is_in_the_file(tmp_path):
    status, _, errors = run_program(BESIDE, tmp_path, WANDB_LOG_MODEL="end")
    assert status == 0, errors
    assert "lacks" not in errors
    found = local_files()
    assert found.points == recorded_points(tmp_path / "out")
    assert found.exit_codes[0] == 0
    assert found.config["per_device_train_batch_size"] == 2
    (model,) = found.artifacts
    assert (model.name, set(model.aliases)) == ("model-beside", {"latest", "final_model"})
    assert {entry.path for entry in model.manifest.contents} == {"model.safetensors"}
    assert all(Path(entry.local_path).exists() for entry in model.manifest.contents)
    assert list((tmp_path / "out").glob(".final-model-*")) == []
    assert found.summary["train_runtime"] > 0


# In the training process


class Own(TrainerCallback):
    """What users do beside the Trainer's logs."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        import wandb

        self.seen.append(wandb.run.id)
        wandb.log({"mine": state.global_step})
        wandb.log({"mine_too": -state.global_step})


def test_program_that_uses_wandb_finds_the_run_in_its_process(train, tmp_path):
    import wandb

    own = Own()
    trainer = train(own, report_to="wandb")
    assert set(own.seen) == {trainer.run_id}
    assert wandb.run is None
    found = local_files()
    rows = [row for row in found.rows if "mine" in row]
    assert [row["mine"] for row in rows] == list(range(1, 13))
    recorded = recorded_points(tmp_path / "out")
    assert Counter({place: 1 for place in found.points if not place[1].startswith("mine")}) == recorded
    assert found.exit_codes == [0]
    assert [row["_step"] for row in found.rows] == sorted({row["_step"] for row in found.rows})


def test_run_that_the_program_has_begun_is_used_and_not_ended(train, tmp_path):
    import wandb

    own = wandb.init(project="own", id="own-run", config={"mine": 1}, settings=wandb.Settings(console="off"))
    trainer = train(report_to="wandb")
    trainer.reporting.close()
    assert wandb.run is own
    own.log({"after": 1})
    own.finish()
    wandb.teardown()  # which waits for the file
    found = local_files()
    assert found.run.run_id == "own-run"
    assert found.config["mine"] == 1
    assert found.config["per_device_train_batch_size"] == 2
    assert sum(place[1] == "after" for place in found.points) == 1
    assert Counter({place: n for place, n in found.points.items() if place[1] != "after"}) == recorded_points(
        tmp_path / "out"
    )


class Changed(WandbCallback):
    """A subclass as the docs of transformers and W&B show them."""

    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        self._wandb.config.update({"extra": type(model).__name__})

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        new_logs = {**(logs or {}), "doubled": 2 * state.global_step}
        super().on_log(args, state, control, model, new_logs)

    def on_evaluate(self, args, state, control, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        self._wandb.log({"predictions": self._wandb.Table(columns=["x"], data=[[1]])})


def test_subclass_may_change_setup_and_logs(train, tmp_path):
    train(Changed(), eval_strategy="epoch")
    found = local_files()
    assert found.config["extra"] == "Network"
    with JournalReader(tmp_path / "out") as reader:
        own = [record for record in reader.records(kinds=[Kind.LOG], tracker="wandb") if record.tracker is not None]
    points = Counter({place: n for place, n in found.points.items() if not place[1].startswith("predictions")})
    assert points == points_in(own)
    doubled = {step: value for step, name, value in points if name == "train/doubled"}
    assert doubled == {step: repr(2.0 * step) for step in range(1, 13)}
    assert any("predictions/_type" in row for row in found.rows)


def test_resumed_training_goes_on_in_the_same_run(train, tmp_path):
    import wandb  # noqa: F401 -- so that it lives here

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(Stop(), report_to="wandb")
    trainer = build(tmp_path / "out", report_to="wandb", tracker_open_timeout=60, tracker_close_timeout=60)
    trainer.train(resume_from_checkpoint=True)
    trainer.reporting.close()
    found = local_files()
    assert len(found.files) == 2
    assert {path.name for path in found.files} == {f"run-{trainer.run_id}.wandb"}
    assert found.points == recorded_points(tmp_path / "out")
    assert [row["_step"] for row in found.rows] == sorted({row["_step"] for row in found.rows})
    assert found.exit_codes == [1, 0]


def test_watch_logs_histograms_and_leaves_weights_alone(train, tmp_path, monkeypatch):
    plain = build(tmp_path / "plain")
    plain.train()
    monkeypatch.setenv("WANDB_WATCH", "all")
    monkeypatch.setattr("loopwright.trackers.wandb._LEAST_FREQUENCY", 2)
    trainer = train(report_to="wandb", logging_steps=2)
    assert same_weights(weights(trainer), weights(plain))
    names = {name for row in local_files().rows for name in row}
    assert {"gradients/layers.0.weight/bins", "parameters/layers.0.weight/bins"} <= names
    assert not trainer.model._forward_hooks


def test_watch_lives_in_the_training_process_and_a_wrong_word_does_not(monkeypatch):
    monkeypatch.setenv("WANDB_WATCH", "gradients")
    assert WandbCallback().needs_training_process() == "WANDB_WATCH=gradients looks into the model"
    for word in ("false", "everything"):
        monkeypatch.setenv("WANDB_WATCH", word)
        assert WandbCallback().needs_training_process() is None


def test_wandb_core_that_dies_under_a_watched_model_does_not_stop_the_training(tmp_path):
    program = """
import os, signal, wandb
from loopwright import TrainerCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from tests.trackers.trainings import build
from tests.processes import children_of
import loopwright.trackers.wandb as module
module._LEAST_FREQUENCY = 1
class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            os.kill(children_of(os.getpid(), "wandb-core")[0], signal.SIGKILL)
if __name__ == "__main__":
    trainer = build("out", report_to="wandb", callbacks=[Kill()], logging_steps=1, tracker_open_timeout=60,
                    tracker_call_timeout=30, tracker_close_timeout=60)
    trainer.train()
    print(trainer.state.global_step)
"""
    status, output, errors = run_program(program, tmp_path, WANDB_WATCH="gradients")
    assert status == 0, errors
    assert output.split()[-1] == "12"
    status, output, errors = run(["-m", "loopwright", "sync", str(tmp_path / "out")], tmp_path)
    assert status == 0, output + errors
    found = local_files()
    points = Counter({place: n for place, n in found.points.items() if not place[1].startswith("gradients")})
    assert points == recorded_points(tmp_path / "out")


PROGRAM = """
import os, signal, sys, wandb
from loopwright import TrainerCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from tests.trackers.trainings import build
from tests.processes import children_of
class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            os.kill(children_of(os.getpid(), "wandb-core")[0], signal.SIGSTOP)
if __name__ == "__main__":
    trainer = build("out", report_to="wandb", callbacks=[Stop()], tracker_open_timeout=60, tracker_close_timeout=2)
    trainer.train()
    print(children_of(os.getpid(), "wandb-core")[0])
    sys.exit(3)
"""


def test_program_ends_with_its_own_status_though_wandb_core_is_suspended(tmp_path):
    began = time.monotonic()
    status, output, errors = run_program(PROGRAM, tmp_path)
    took = time.monotonic() - began
    os.kill(int(output.split()[-1]), signal.SIGKILL)  # suspended, it outlives the program that started it
    assert status == 3, errors
    assert took < 60
    assert "loopwright sync" in errors


def test_nothing_is_left_running():
    assert children_of(os.getpid(), "wandb-core") == []
