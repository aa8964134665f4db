"""The tests' own way of starting processes."""

from __future__ import annotations

import os
import sys
import time

import pytest
import torch
import torch.distributed as dist

from tests.distributed.launching import launch, returned


def add_up(number):
    dist.init_process_group("gloo")
    total = torch.tensor(int(number) + dist.get_rank())
    dist.all_reduce(total)
    dist.destroy_process_group()
    return int(os.environ["RANK"]), total.item(), os.environ["EXTRA"]


def leave(word):
    print(word)
    sys.exit(int(os.environ["RANK"]))


def stay():
    print("waits", flush=True)
    time.sleep(60)


def test_processes_find_one_another_and_return_what_they_have(tmp_path):
    found = returned(add_up, 2, tmp_path, 5, EXTRA="here")
    assert found == [(0, 11, "here"), (1, 11, "here")]


def test_outputs_and_statuses_are_each_process_s_own(tmp_path):
    ended = launch(leave, 2, tmp_path, "word")
    assert [(one.status, one.output) for one in ended] == [(0, "word\n"), (1, "word\n")]


def test_a_process_that_does_not_end_is_killed_and_what_it_wrote_is_shown(tmp_path):
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="waits"):
        launch(stay, 2, tmp_path, timeout=2.0)
    assert time.monotonic() - begin < 20
