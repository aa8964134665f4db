"""Device, ranks and who goes first."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch

from loopwright.arguments import ParallelMode, TrainingArguments
from loopwright.errors import ArgumentError

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_alone_by_default() -> None:
    args = TrainingArguments("out")

    assert (args.world_size, args.process_index, args.local_process_index) == (1, 0, 0)
    assert args.parallel_mode is ParallelMode.NOT_PARALLEL
    assert args.should_log
    assert args.should_save
    assert args.place_model_on_device


def test_ranks_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(RANK_VARIABLES, "584", strict=True):
        monkeypatch.setenv(name, value)
    args = TrainingArguments("out", local_rank=0)

    assert (args.process_index, args.world_size, args.local_process_index) == (5, 8, 4)
    assert args.parallel_mode == "distributed"
    assert not args.should_log
    assert not args.should_save


def test_local_rank_counts_where_no_variable_is_set() -> None:
    assert TrainingArguments("out", local_rank=2).local_process_index == 2


@pytest.mark.parametrize(("each_node", "speaks"), [(True, True), (False, False)])
def test_first_of_a_later_machine_speaks_if_each_machine_should(
    monkeypatch: pytest.MonkeyPatch, each_node: bool, speaks: bool
) -> None:
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("LOCAL_RANK", "0")

    args = TrainingArguments("out", log_on_each_node=each_node, log_level="debug", log_level_replica="error")

    assert args.should_log is speaks
    assert args.get_process_log_level() == (logging.DEBUG if speaks else logging.ERROR)


def test_broken_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ArgumentError, match="WORLD_SIZE"):
        _ = TrainingArguments("out").world_size


def test_passive_log_level_is_the_one_in_force() -> None:
    in_force = logging.getLogger("loopwright").getEffectiveLevel()

    assert TrainingArguments("out").get_process_log_level() == in_force
    assert TrainingArguments("out", log_level="detail").get_process_log_level() == logging.DEBUG


def test_cpu_is_used_where_asked_for() -> None:
    args = TrainingArguments("out", use_cpu=True)

    assert args.device == torch.device("cpu")
    assert args.n_gpu == 0


def test_device_is_the_best_there_is() -> None:
    args = TrainingArguments("out")
    if torch.cuda.is_available():
        expected = torch.device("cuda", 0)
    elif torch.backends.mps.is_available():
        expected = torch.device("mps", 0)
    else:
        expected = torch.device("xpu" if torch.xpu.is_available() else "cpu")

    assert args.device.type == expected.type
    assert args.n_gpu == (expected.type != "cpu")


def test_batch_sizes_are_those_of_one_device() -> None:
    args = TrainingArguments("out", per_device_train_batch_size=3, per_device_eval_batch_size=5)

    assert (args.train_batch_size, args.eval_batch_size) == (3, 5)


def test_timeout_is_a_timedelta() -> None:
    assert TrainingArguments("out").ddp_timeout_delta == timedelta(minutes=30)


def test_main_process_alone_just_goes_on() -> None:
    with TrainingArguments("out").main_process_first(desc="tokenizing"):
        pass


PROGRAM = """
import sys, time
from pathlib import Path
import torch.distributed as dist
from loopwright.arguments import TrainingArguments

args = TrainingArguments("out", use_cpu=True)
dist.init_process_group("gloo", timeout=args.ddp_timeout_delta)
done = Path(sys.argv[1])
with args.main_process_first():
    if args.process_index == 0:
        time.sleep(0.3)
        done.write_text("by the first")
    assert done.read_text() == "by the first"
dist.destroy_process_group()
"""


def test_others_wait_for_the_main_process(tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "done")],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], errors
