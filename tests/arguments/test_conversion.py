"""From what is given to what is kept, by type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import trainer_utils

from loopwright.arguments import TrainingArguments
from loopwright.errors import ArgumentError


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("learning_rate", "5e-5", 5e-5),  # as YAML reads it
        ("learning_rate", 1, 1),
        ("learning_rate", np.float32(0.5), 0.5),
        ("learning_rate", torch.tensor(0.5), 0.5),
        ("max_grad_norm", float("inf"), float("inf")),
        ("num_train_epochs", 3, 3),
        ("max_steps", "1e3", 1000),
        ("max_steps", 10.0, 10),
        ("max_steps", np.int64(10), 10),
        ("logging_steps", 100.0, 100),  # as command lines give it
        ("logging_steps", 0.1, 0.1),
        ("eval_steps", None, None),
        ("bf16", "true", True),
        ("bf16", np.True_, True),
        ("tf32", None, None),
        ("output_dir", Path("a") / "b", "a/b"),
        ("run_name", "5", "5"),
        ("label_names", ("a", "b"), ["a", "b"]),
        ("save_strategy", False, "no"),  # as YAML reads an unquoted no
        ("eval_strategy", trainer_utils.IntervalStrategy.NO, "no"),
        ("include_num_input_tokens_seen", False, "no"),
        ("include_num_input_tokens_seen", True, "all"),
        ("lr_scheduler_kwargs", '{"a": 1, "b": {"c": "2"}, "d": "False", "e": "0.5", "f": "g"}',
         {"a": 1, "b": {"c": 2}, "d": False, "e": 0.5, "f": "g"}),
        ("eval_delay", None, 0),
        ("report_to", None, ["all"]),
        ("report_to", "all", ["all"]),
        ("report_to", "none", []),
        ("report_to", ["none"], []),
        ("report_to", "wandb", ["wandb"]),
        ("report_to", (), []),
    ],
)  # fmt: skip
def test_value_is_kept_as(name: str, given: Any, kept: Any) -> None:
    found = getattr(TrainingArguments(**{name: given}), name)

    assert found == kept
    assert isinstance(found, str) if isinstance(kept, str) else type(found) is type(kept)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("learning_rate", "fast", "learning_rate='fast': expected a number"),
        ("learning_rate", True, "learning_rate=True: expected a number"),
        ("learning_rate", None, "learning_rate=None: expected a number"),
        ("learning_rate", float("nan"), "learning_rate=nan: expected a number"),
        ("learning_rate", np.zeros(2), "learning_rate=array([0., 0.]): expected a number"),
        ("max_steps", True, "max_steps=True: expected a whole number"),
        ("max_steps", 1.5, "max_steps=1.5: expected a whole number"),
        ("max_steps", "inf", "max_steps='inf': expected a whole number"),
        ("data_seed", "x", "data_seed='x': expected a whole number or None"),
        ("bf16", 1, "bf16=1: expected True or False"),
        ("bf16", "yes", "bf16='yes': expected True or False"),
        ("run_name", 5, "run_name=5: expected a string or None"),
        ("output_dir", b"out", "output_dir=b'out': expected a string"),
        ("label_names", "labels", "label_names='labels': expected a list of strings or None"),
        ("label_names", [1], "label_names=[1]: expected a list of strings or None"),
        ("report_to", 5, "report_to=5: expected a list of strings or a string or None"),
        ("lr_scheduler_kwargs", "{", "lr_scheduler_kwargs='{': expected a dict, or a JSON object as text or None"),
        ("lr_scheduler_kwargs", "[1]", "lr_scheduler_kwargs='[1]': expected a dict, or a JSON object as text or None"),
        (
            "eval_strategy",
            "epochs",
            "eval_strategy='epochs': expected one of 'no', 'steps', 'epoch'; did you mean 'epoch'?",
        ),
        ("eval_strategy", None, "eval_strategy=None: expected one of 'no', 'steps', 'epoch'"),
        ("save_strategy", True, "save_strategy=True: expected one of 'no', 'steps', 'epoch', 'best'"),
        (
            "dataloader_multiprocessing_context",
            "thread",
            "dataloader_multiprocessing_context='thread': expected one of 'fork', 'spawn', 'forkserver' or None",
        ),
    ],
)
def test_unfit_value_is_refused_with_name_value_and_what_is_allowed(name: str, given: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        TrainingArguments(**{name: given})

    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError), "what transformers raises"
