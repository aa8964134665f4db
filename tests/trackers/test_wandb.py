"""W&B holds what the journal holds: offline in its files and online, after kills, resumes and outages."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from loopwright._support import log
from loopwright.errors import MissingExtra
from loopwright.records import Kind, Status
from loopwright.trackers import wandb_choices as choices
from loopwright.trackers.description import recorded_variables
from loopwright.trackers.wandb import WandbCallback
from loopwright.trackers.wandb_files import GLOBAL_STEP, MARKER, Holdings
from tests.processes import children_of
from tests.trackers.wandb_journal import Journal, local_files, points_of, wait_for

pytest_plugins = ("tests.trackers.wandb_fixtures",)
pytestmark = pytest.mark.usefixtures("own_environment")


# Offline


def test_file_holds_every_point_of_the_journal(journal):
    journal.begin()
    journal.log(0, 3)
    journal.log(4, 4, **{"odd.name": math.nan, "huge": 1e308, "inf": math.inf, "least": -math.inf, "big": 2**60})
    journal.note(Kind.LOG, 4, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5, "dogs": 1}, "eval_text": "gut ✓"})
    journal.note(Kind.PREDICTION, 4, {"test_loss": 0.125})
    journal.note(Kind.LOG, 5, {"train_runtime": 2.5, "train_loss": 0.5, "total_flos": 10.0, "epoch": 0.5})
    journal.end()
    assert journal.deliver() is None
    found = local_files()
    assert found.points == journal.points()
    assert [row["_step"] for row in found.rows] == [0, 1, 2, 3, 4, 5]
    assert {row["_step"]: row[GLOBAL_STEP] for row in found.rows} == {step: step for step in range(6)}
    assert found.exit_codes == [0]
    assert {name: found.summary[name] for name in ("train_runtime", "train_loss", "total_flos")} == {
        "train_runtime": 2.5,
        "train_loss": 0.5,
        "total_flos": 10,
    }
    with_marker = [row[MARKER] for row in found.rows]
    assert with_marker == sorted(with_marker)


def test_late_records_of_a_step_that_is_over_are_kept(journal):
    assert journal.whole_run(3) is None
    journal.begin(first_step=3)
    journal.note(Kind.LOG, 3, {"eval_loss": 0.25, "epoch": 0.3})
    journal.end()
    assert journal.deliver() is None
    journal.begin(first_step=3)
    journal.log(4, 5)
    journal.note(Kind.LOG, 5, {"eval_loss": 0.5})
    journal.note(Kind.LOG, 5, {"eval_loss": 0.75})  # evaluated twice at a step: neither hides the other
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    found = local_files()
    assert found.points == journal.points()
    assert [row["_step"] for row in found.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert found.exit_codes == [0, 0, 1]


def test_row_is_sent_after_a_pause_and_what_follows_gets_its_own(journal, monkeypatch):
    monkeypatch.setattr("loopwright.trackers.wandb_session._PAUSE_SECONDS", 0.1)
    journal.begin()
    worker = journal.start_worker()
    journal.log(1, 2)
    wait_for(lambda: worker._sent == 2 and worker._sink._session._row is None)
    journal.note(Kind.LOG, 2, {"eval_loss": 0.5, "epoch": 0.2})
    worker.finish()
    wait_for(lambda: worker.is_done)
    rows = local_files().rows
    assert [(row["_step"], row[GLOBAL_STEP]) for row in rows] == [(1, 1), (2, 2), (3, 2)]
    assert rows[2]["train/epoch"] == 0.2, "evaluation can be drawn over the epoch"


def test_points_keep_the_time_they_were_made_at(journal):
    journal.begin()
    journal.log(1, 2)
    journal.end()
    made = [record.time for record in journal.reader().records(kinds=[Kind.LOG])]
    assert journal.deliver() is None
    assert [row["_timestamp"] for row in local_files().rows] == made


@pytest.mark.parametrize(
    ("status", "exit_code"), [(Status.STOPPED, 0), (Status.FAILED, 1), (Status.PREEMPTED, 1), (Status.KILLED, 1)]
)
def test_run_ends_as_the_training_did(status, exit_code, journal):
    journal.begin()
    journal.log(1, 1)
    journal.end(status)
    assert journal.deliver() is None
    found = local_files()
    assert found.exit_codes == [exit_code]
    assert found.is_preempting == (status is Status.PREEMPTED)


def test_charts_are_drawn_over_the_global_step(journal):
    assert journal.whole_run() is None
    metrics = {metric.name or metric.glob_name: metric for metric in local_files().metrics}
    assert metrics["*"].step_metric == GLOBAL_STEP
    assert metrics["*"].options.step_sync


# Artifacts


def test_checkpoints_are_stored_and_may_be_rotated_out(journal, monkeypatch):
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    journal.begin()
    worker = journal.start_worker()
    for step in (5, 10):
        journal.log(step, step)
        path = journal.checkpoint(step)
        cursor = journal.cursor
        wait_for(lambda: worker._sent >= journal.recorder.position)
        shutil.rmtree(path)
        assert journal.cursor == cursor, "an artifact is safe when the file holds it, not before"
    worker.finish()
    wait_for(lambda: worker.is_done)
    assert worker.error is None
    found = local_files()
    assert [(one.name, one.type) for one in found.artifacts] == [(f"model-{journal.run.id}", "model")] * 2
    assert [set(one.aliases) for one in found.artifacts] == [
        {"latest", "epoch_0.5", "checkpoint_global_step_5"},
        {"latest", "epoch_1.0", "checkpoint_global_step_10"},
    ]
    for one, step in zip(found.artifacts, (5, 10), strict=True):
        files = {entry.path: Path(entry.local_path).read_bytes() for entry in one.manifest.contents}
        assert files == {"weights.bin": bytes([step]) * 1000, "state.json": b'{"step": %d}' % step}
        metadata = json.loads(one.metadata)
        assert (metadata["step"], metadata["train/grad_norm"]) == (step, step)
    assert found.points == journal.points()


def test_name_of_the_run_is_made_fit_for_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    journal = Journal(tmp_path / "out", name="my run/1 é")
    journal.begin()
    journal.log(5, 5)
    journal.checkpoint(5)
    journal.end()
    assert journal.deliver() is None
    (artifact,) = local_files().artifacts
    assert artifact.name == "model-my-run-1--"


# The run, and variables that say what it is


def test_run_shows_parameters_and_is_in_the_project_of_the_arguments(tmp_path):
    parameters = {"learning_rate": 0.1, "model_type": "tiny", "nested": {"a": [1, 2]}, "nothing": None}
    journal = Journal(tmp_path / "out", name="my run", project="mine", parameters=parameters, arguments=parameters)
    journal.begin()
    journal.recorder.begin_attempt(journal.run, purpose="training")
    journal.log(1, 1)
    journal.end()
    assert journal.deliver() is None
    found = local_files()
    assert {name: found.config[name] for name in parameters} == parameters
    assert found.config["loopwright/run_id"] == journal.run.id == found.run.run_id
    assert (found.run.project, found.run.display_name, found.run.run_group) == ("mine", "my run", "")


def test_project_is_huggingface_where_nothing_says_otherwise(journal):
    assert journal.whole_run(1) is None
    assert local_files().run.project == "huggingface"


def test_variables_say_what_the_run_is(journal, monkeypatch, tmp_path):
    wanted = {
        "WANDB_PROJECT": "other",
        "WANDB_ENTITY": "us",
        "WANDB_RUN_GROUP": "group",
        "WANDB_TAGS": "one, two",
        "WANDB_NAME": "named",
        "WANDB_NOTES": "some words",
        "WANDB_JOB_TYPE": "train",
        "WANDB_RUN_ID": "an-id",
        "WANDB_RESUME": "allow",
        "WANDB_DIR": str(tmp_path / "not" / "there"),
    }
    for name, text in wanted.items():
        monkeypatch.setenv(name, text)
    assert journal.whole_run() is None
    found = local_files(tmp_path / "not" / "there")
    run = found.run
    assert (run.project, run.entity, run.run_group, list(run.tags)) == ("other", "us", "group", ["one", "two"])
    assert (run.display_name, run.notes, run.job_type, run.run_id) == ("named", "some words", "train", "an-id")
    assert found.points == journal.points()


def test_variables_are_those_of_the_run_when_it_is_delivered_later(journal, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "first")
    journal.begin()
    journal.log(1, 2)
    journal.end()
    monkeypatch.setenv("WANDB_PROJECT", "second")
    assert journal.deliver() is None
    assert local_files().run.project == "first"


def test_trials_of_a_search_are_a_group(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "not-for-trials")
    for number in range(2):
        journal = Journal(
            tmp_path / f"out-{number}",
            name="search",
            trial_name=f"trial {number}",
            trial_parameters={"learning_rate": 0.1},
        )
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / f"trial-{number}"))
        assert journal.whole_run() is None
        run = local_files(tmp_path / f"trial-{number}").run
        assert (run.run_id, run.run_group, run.display_name) == (journal.run.id, "search", f"trial {number}")
        assert run.job_type == "trial"


def test_branch_names_its_parent(tmp_path):
    journal = Journal(tmp_path / "out", parent_id="f" * 32, parent_step=40)
    journal.begin()
    journal.log(41, 41)
    journal.end()
    assert journal.deliver() is None
    config = local_files().config
    assert (config["loopwright/parent_run_id"], config["loopwright/parent_step"]) == ("f" * 32, 40)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("WANDB_DISABLED", "true", "WANDB_DISABLED says so"),
        ("WANDB_DISABLED", "0", None),
        ("WANDB_MODE", "online", None),
    ],
)
def test_it_is_off_when_a_variable_says_so(name, text, reason, monkeypatch):
    monkeypatch.setenv(name, text)
    assert WandbCallback().why_off() == reason


def test_mode_disabled_is_off_unless_the_program_uses_wandb(journal, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with monkeypatch.context() as context:
        context.delitem(sys.modules, "wandb", raising=False)
        assert WandbCallback().why_off() == "WANDB_MODE is disabled"
    assert journal.whole_run() is None
    assert local_files().files == []


@pytest.mark.parametrize(
    ("text", "when", "said"),
    [
        ("checkpoint", "checkpoint", None),
        ("END", "end", None),
        ("false", "false", None),
        ("true", "end", 'deprecated, say "end"'),
        ("0", "false", 'deprecated, say "false"'),
        ("sometimes", "false", "expected one of end, checkpoint, false"),
    ],
)
def test_wandb_log_model_says_when_the_model_is_stored(text, when, said, monkeypatch, caplog):
    log._said.clear()
    monkeypatch.setenv("WANDB_LOG_MODEL", text)
    tracker = WandbCallback()
    assert tracker.wants_checkpoints() == (when == "checkpoint")
    assert choices.when_to_store(tracker.variable) == when
    assert said in caplog.text if said else not caplog.text


def test_variables_that_are_recorded_hold_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://user:secret@example.org")
    assert recorded_variables(WandbCallback.variables) == {"WANDB_MODE": "offline"}


def test_constructor_names_the_extra_where_the_sdk_is_missing(monkeypatch):
    monkeypatch.setattr("loopwright._support.extras.is_installed", lambda name: False)
    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[wandb\]"'):
        WandbCallback()


def test_callback_is_copied_without_what_it_holds_open():
    copied = pickle.loads(pickle.dumps(WandbCallback()))
    assert copied._session is None


# Modes


def test_without_credentials_the_run_is_offline_and_nobody_is_asked(journal, monkeypatch, caplog):
    log._said.clear()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("it asked"))
    assert journal.whole_run() is None
    assert "no API key" in caplog.text
    assert journal.reference["mode"] == "offline"
    assert local_files().points == journal.points()


def test_credentials_in_netrc_are_found(wandb_service, journal, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text(
        f"machine 127.0.0.1:{wandb_service.url.rpartition(':')[2]} login user password {'1' * 40}\n"
    )
    (tmp_path / "netrc").chmod(0o600)
    assert journal.whole_run() is None
    assert points_of(wandb_service.runs[journal.run.id].lines) == journal.points()


def test_mode_online_without_credentials_waits_for_them(journal, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    error = journal.whole_run()
    assert error is not None
    assert "no API key" in error
    assert journal.cursor == 0


def test_directory_that_cannot_be_written_is_left_for_the_output_dir(journal, monkeypatch, tmp_path, caplog):
    log._said.clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "below"))
    assert journal.whole_run() is None
    assert "can't be written" in caplog.text
    assert local_files(journal.directory).points == journal.points()


# Kills


def test_killed_delivery_process_is_caught_up_with(journal):
    journal.begin()
    process = journal.follow()
    for first in range(1, 1000, 100):
        journal.log(first, first + 99, eval_loss=0.5)
        time.sleep(0.1)
    wait_for(lambda: journal.cursor > 100)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    torn = local_files()
    assert 100 < len(torn.rows) < 1000, "some are safe, and some were in the buffer"
    assert torn.exit_codes == [None]
    assert torn.rows[-1][MARKER] >= journal.cursor, "what is confirmed is in the file"
    journal.log(1001, 1010)
    journal.end()
    synced = journal.sync()
    assert synced.returncode == 0, synced.stdout + synced.stderr
    found = local_files()
    assert found.points == journal.points()
    assert len(found.files) == 2
    assert found.exit_codes == [None, 0]


@pytest.mark.parametrize("cursor", ["behind", "ahead"])
def test_files_decide_what_comes_again(cursor, journal):
    journal.begin()
    journal.log(1, 10)
    assert journal.deliver(Status.RUNNING) is None
    journal.log(11, 20)
    # As after a kill: the cursor was not moved in time; or the file has lost its end with the machine's power.
    journal.forget(cursor=3 if cursor == "behind" else 20)
    journal.end()
    assert journal.deliver() is None
    assert local_files().points == journal.points()


def test_files_that_were_sent_and_removed_are_not_missed(journal):
    journal.begin()
    journal.log(1, 10)
    assert journal.deliver(Status.RUNNING) is None
    journal.log(11, 20)
    assert journal.deliver(Status.RUNNING) is None
    shutil.rmtree(local_files().files[0].parent)
    shutil.rmtree(local_files().files[0].parent)
    journal.log(21, 30)
    journal.forget(cursor=20)
    journal.end()
    assert journal.deliver() is None
    assert sorted(step for step, _, _ in local_files().points) == sorted([*range(11, 31)] * 3)


def test_wandb_core_that_is_killed_is_started_again(journal):
    journal.begin()
    with journal.follow() as process:
        journal.log(1, 5)
        wait_for(lambda: children_of(process.pid, "wandb-core"))
        (core,) = children_of(process.pid, "wandb-core")
        wait_for(lambda: journal.reference)
        time.sleep(1.0)
        os.kill(core, signal.SIGKILL)
        journal.log(6, 10)
        wait_for(lambda: set(children_of(process.pid, "wandb-core")) - {core})
        journal.end()
        process.stdin.close()
        assert process.wait(60) == 0
    assert local_files().points == journal.points()


def test_artifact_that_a_kill_left_in_the_file_is_not_stored_twice(journal, monkeypatch):
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    journal.begin()
    journal.log(5, 5)
    journal.checkpoint(5)
    assert journal.deliver(Status.RUNNING) is None
    journal.forget(cursor=0)
    journal.log(6, 6)
    journal.end()
    assert journal.deliver() is None
    found = local_files()
    assert len(found.artifacts) == 1
    assert found.points == journal.points()


# Rewinds


def test_rewound_rows_are_taken_back_in_the_file(journal):
    journal.begin()
    journal.log(1, 10)
    assert journal.deliver(Status.RUNNING) is None
    journal.note(Kind.REWIND, 6, {"from_step": 6})
    for step in range(6, 9):
        journal.note(Kind.LOG, step, {"loss": 100.0 + step})
    journal.end()
    assert journal.deliver() is None
    found = local_files()
    assert found.run.branch_point.value == 5
    assert [row["_step"] for row in found.rows if row["train/loss"] > 100] == [6, 7, 8]
    held = Holdings.of(found.files)
    assert (held.last_number, held.last_record()[1]) == (8, 8)


def test_rewind_to_the_beginning_keeps_both(journal):
    journal.begin()
    journal.log(1, 2)
    journal.note(Kind.REWIND, 1, {"from_step": 1})
    journal.note(Kind.LOG, 1, {"loss": 100.0})
    journal.end()
    assert journal.deliver() is None
    assert [(row["_step"], row[GLOBAL_STEP], row["train/loss"]) for row in local_files().rows] == [
        (1, 1, 0.5),
        (2, 2, 1 / 3),
        (3, 1, 100.0),
    ]
