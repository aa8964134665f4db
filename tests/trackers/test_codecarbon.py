"""CodeCarbon, with its real meter: every session is measured to its end, whatever ends it, and counted once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopwright.delivery.store import read_delivered
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers.codecarbon import CodeCarbonCallback
from tests.processes import children_of
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.codecarbon import rows
from tests.trackers.trainings import deliver_what_is_left

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from loopwright import TrainerCallback
from loopwright.delivery.store import read_delivered
from tests.trackers.trainings import build

class Wait(TrainerCallback):
    # The second half of the training begins when the meter has been read.
    def on_step_end(self, args, state, control, **kwargs):
        until = time.monotonic() + 60
        while state.global_step == 6 and time.monotonic() < until:
            if read_delivered("out", trainer.run_id, "codecarbon").reference.get("reading"):
                time.sleep(1.2)
                break
            time.sleep(0.1)
        if state.global_step == 8:
            print("measured", flush=True)
            {act}

if __name__ == "__main__":
    trainer = build("out", report_to="codecarbon", callbacks=[Wait()], tracker_call_timeout=60,
                    tracker_close_timeout=60)
    trainer.train(resume_from_checkpoint=sys.argv[1] if len(sys.argv) > 1 else None)
"""


class Journal(ServiceJournal):
    tracker_class = CodeCarbonCallback


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    for name in CodeCarbonCallback.variables:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where the SDK has a file of settings
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    monkeypatch.chdir(tmp_path)


def start(directory: Path, act: str = "pass", *arguments: str, **environment: str) -> subprocess.Popen[str]:
    (directory / "program.py").write_text(PROGRAM.format(act=act))
    return subprocess.Popen(
        [sys.executable, "program.py", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT), *sys.path]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def train(directory: Path, act: str = "pass", *arguments: str, **environment: str) -> int:
    process = start(directory, act, *arguments, **environment)
    process.communicate(timeout=150)
    return process.returncode


def lines(out: Path):
    with JournalReader(out) as reader:
        return [record.values for record in reader.records(kinds=[Kind.LOG])]


def reference(out: Path):
    with JournalReader(out) as reader:
        return read_delivered(out, reader.runs()[-1].id, "codecarbon").reference


def measure(journal: Journal, seconds: float = 2.5) -> None:
    """Deliver a session in this process, where a training of so many seconds is at work."""
    worker = journal.start_worker()
    assert worker.has_opened.wait(60)
    time.sleep(seconds)
    worker.finish()
    assert worker.join(60), worker.error
    assert worker.error is None


def test_last_line_holds_what_was_measured_and_a_resume_adds_to_it(tmp_path):
    out = tmp_path / "out"
    assert train(tmp_path, "raise KeyboardInterrupt") != 0
    (first,) = rows(out)
    assert first["country_iso_code"] == "FRA"
    assert float(first["energy_consumed"]) > 0
    assert not [line for line in lines(out) if "emissions_kg" in line]
    assert train(tmp_path, "pass", str(out / "checkpoint-5")) == 0
    first_again, second = rows(out)
    assert first_again == first
    (last,) = [line for line in lines(out) if "emissions_kg" in line]
    assert "train_runtime" in last
    total = float(first["emissions"]) + float(second["emissions"])
    assert float(first["emissions"]) < last["emissions_kg"] <= total
    assert reference(out)["before"]["emissions_kg"] == pytest.approx(total)
    assert last["energy_kwh"] > float(first["energy_consumed"])


@pytest.mark.parametrize("act", ["raise ValueError('mine')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_session_that_ends_in_disorder_is_measured_to_its_end(act, tmp_path):
    assert train(tmp_path, act) != 0
    until = time.monotonic() + 60  # after a kill, delivery ends by itself
    while not rows(tmp_path / "out") and time.monotonic() < until:
        time.sleep(0.1)
    (row,) = rows(tmp_path / "out")
    assert float(row["duration"]) > 1


def test_killed_with_its_meter_a_session_is_in_the_table_when_the_run_goes_on(tmp_path):
    process = start(tmp_path, "time.sleep(600)")
    assert "measured\n" in iter(process.stdout.readline, "")
    followers = children_of(process.pid)
    for pid in (*followers, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    out = tmp_path / "out"
    assert followers
    assert rows(out) == []
    held = reference(out)["reading"]
    deliver_what_is_left(out)
    (row,) = rows(out)
    assert (row["run_id"], float(row["emissions"])) == (held["run_id"], pytest.approx(held["emissions"]))


def kill_before_the_row_was_noted(journal: Journal) -> dict[str, str]:
    """Leave what a kill leaves between a session's row and its note; return the row."""
    journal.begin()
    journal.note(Kind.LOG, 1, {"loss": 1.0})
    measure(journal)
    (row,) = rows(journal.directory)
    numbers = {name: float(row[name]) for name in ("emissions", "energy_consumed")}
    journal.forget(reference=json.dumps({"reading": {**{name: text or None for name, text in row.items()}, **numbers}}))
    return row


def test_row_that_a_kill_kept_from_being_noted_is_not_doubled(tmp_path):
    journal = Journal(tmp_path / "out")
    row = kill_before_the_row_was_noted(journal)
    journal.end()
    journal.recorder.close()
    deliver_what_is_left(journal.directory)
    assert [one["run_id"] for one in rows(journal.directory)] == [row["run_id"]]
    assert reference(journal.directory)["before"]["emissions_kg"] == pytest.approx(float(row["emissions"]))


def test_session_after_a_killed_one_adds_to_it(tmp_path):
    journal = Journal(tmp_path / "out")
    kill_before_the_row_was_noted(journal)
    journal.begin()
    journal.note(Kind.LOG, 2, {"loss": 1.0})
    measure(journal)
    total = sum(float(row["emissions"]) for row in rows(journal.directory))
    assert len(rows(journal.directory)) == 2
    assert reference(journal.directory)["before"]["emissions_kg"] == pytest.approx(total)


def test_what_is_delivered_later_is_not_measured(tmp_path):
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.note(Kind.LOG, 1, {"loss": 1.0})
    journal.end(Status.COMPLETED)
    journal.recorder.close()
    deliver_what_is_left(tmp_path / "out")
    assert rows(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("country", "shown", "warning"),
    [
        ("usa", "USA", None),
        ("France", "", "there is no country 'France'"),
        (None, "", "no country is given"),
    ],
)
def test_country_is_that_of_the_variable_else_the_world(country, shown, warning, tmp_path, monkeypatch, caplog):
    if country is None:
        monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE")
    else:
        monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", country)
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.note(Kind.LOG, 1, {"loss": 1.0})
    measure(journal, 1.5)
    (row,) = rows(journal.directory)
    assert row["country_iso_code"] == shown
    grams = 1000 * float(row["emissions"]) / float(row["energy_consumed"])
    assert (grams == pytest.approx(475, rel=0.01)) is (shown == ""), "the world's average is 475 g/kWh"
    said = [line for line in caplog.messages if line.startswith("codecarbon")]
    assert [warning in line for line in said] == ([] if warning is None else [True])


def test_argument_goes_before_the_variable_and_to_the_delivery_process():
    arguments = CodeCarbonCallback(country_iso_code="deu").constructor_arguments()
    assert arguments == {"country_iso_code": "deu"}
    assert CodeCarbonCallback(**arguments)._choose_country({"country_iso_code": "FRA"}) == "DEU"


def test_table_goes_where_the_variables_say(tmp_path, monkeypatch):
    monkeypatch.setenv("CODECARBON_OUTPUT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CODECARBON_OUTPUT_FILE", "table.csv")
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.note(Kind.LOG, 1, {"loss": 1.0})
    measure(journal, 1.5)
    assert (tmp_path / "elsewhere" / "table.csv").read_text().count("\n") == 2


def test_nothing_is_asked_of_the_network(tmp_path):
    # Loaded by every Python that this one starts, before anything else.
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(self, address):\n"
        f"    open({str(tmp_path / 'asked')!r}, 'a').write(repr(address))\n"
        "    raise OSError('no network')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
    )
    assert train(tmp_path) == 0
    assert rows(tmp_path / "out")
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()
