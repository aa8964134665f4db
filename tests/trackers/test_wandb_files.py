"""The reader of W&B's local files, on files that wandb-core wrote, and on what kills leave of them."""

from __future__ import annotations

import time

import pytest

from loopwright.trackers.wandb_files import GLOBAL_STEP, MARKER, Holdings, LogFile, read_rows, run_files

NUM_ROWS = 200
# Longer than two blocks: its record has a first, a middle and a last piece.
LONG = "long text " * 8000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file that the SDK wrote, several blocks long."""
    directory = tmp_path_factory.mktemp("wandb-file")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "CONFIG", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(directory / name.lower()))
        patch.setenv("WANDB_MODE", "offline")
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        run = wandb.init(id="some-id", dir=directory, settings=settings, reinit="create_new")
        for number in range(NUM_ROWS):
            values = {"loss": number / 7, GLOBAL_STEP: 2 * number, MARKER: number + 1}
            run.log({**values, "text": LONG} if number == 50 else values, step=number)
        run.summary["final"] = 1.5
        run.finish()
        wandb.teardown()
    (found,) = run_files(directory / "wandb", "some-id")
    return found


def test_rows_are_read_with_their_global_step(path):
    rows = list(read_rows(path))
    assert [step for step, _ in rows] == [2 * number for number in range(NUM_ROWS)]
    assert [row["loss"] for _, row in rows] == [number / 7 for number in range(NUM_ROWS)]
    assert rows[50][1]["text"] == LONG


def test_file_that_grows_is_read_onwards(path, tmp_path):
    content = path.read_bytes()
    growing = tmp_path / "growing.wandb"
    log = LogFile(growing)
    assert list(log.read()) == [], "it isn't there yet"
    kinds = []
    for end in [3, 7, 8, *range(1000, len(content), 9973), len(content)]:
        growing.write_bytes(content[:end])
        kinds += [record.SerializeToString() for record in log.read()]
    assert kinds == [record.SerializeToString() for record in LogFile(path).read()]


@pytest.mark.parametrize("end", [0, 3, 7, 20, 32768, 40000, 65536 + 3])
def test_torn_end_hides_nothing_before_it(end, path, tmp_path):
    torn = tmp_path / "torn.wandb"
    torn.write_bytes(path.read_bytes()[:end])
    found = [row["loss"] for _, row in read_rows(torn)]
    assert found == [number / 7 for number in range(len(found))]
    assert len(found) < NUM_ROWS


def test_damaged_piece_ends_what_counts(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[20000] ^= 0xFF
    damaged = tmp_path / "damaged.wandb"
    damaged.write_bytes(content)
    assert 0 < len(list(read_rows(damaged))) < 50


def test_file_of_another_kind_holds_nothing(tmp_path):
    other = tmp_path / "other.wandb"
    other.write_bytes(b"something else entirely, and long enough")
    assert list(LogFile(other).read()) == []


def test_holdings_tell_what_is_there(path):
    held = Holdings.of([path])
    assert held.last_number == NUM_ROWS - 1
    assert held.last_record() == (NUM_ROWS, 2 * (NUM_ROWS - 1))
    assert held.last_record(up_to=9) == (10, 18)
    assert held.last_record(up_to=-1) == (0, 0)
    assert held.number_before(20) == 9
    assert held.number_before(21) == 10
    assert held.number_before(0) == -1
    assert held.summary["final"] == 1.5
    assert held.newest_values[1]["loss"] == (NUM_ROWS - 1) / 7
    held.rewind(9)
    assert (held.last_number, held.last_record()) == (9, (10, 18))


def test_files_of_a_run_are_found_in_their_order(tmp_path):
    names = [
        "run-20260101_000000-an-id",
        "offline-run-20260101_000001-an-id",
        "offline-run-20260101_000001-an-id-1",
        "run-20260102_000000-an-id",
    ]
    others = ["run-20260101_000000-an-id2", "latest-run", "run-20260101_000000-not-an-id"]
    for name in names + others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "run-an-id.wandb").touch()
    assert [path.parent.name for path in run_files(tmp_path, "an-id")] == names


def test_many_rows_are_read_fast(path):
    began = time.monotonic()
    for _ in range(10):
        Holdings.of([path])
    # Measured: 50 us a row on an idle machine; a run of a million rows opens within its deadline of two minutes.
    assert (time.monotonic() - began) / (10 * NUM_ROWS) < 1e-3
