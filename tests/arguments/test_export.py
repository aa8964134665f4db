"""Arguments as dict, JSON and text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from loopwright.arguments import TrainingArguments
from loopwright.arguments.masking import is_secret


@dataclass
class WithSecrets(TrainingArguments):
    """Secrets of a user's own."""

    service_token: str | None = None
    db_password: str | None = None
    client_secret: str | None = None
    my_api_key: str | None = None
    tokenizer_name: str = "plain"


SECRETS = {"service_token": "s1", "db_password": "s2", "client_secret": "s3", "my_api_key": "s4"}


def test_dict_holds_plain_values_and_no_old_names(other_values: dict[str, Any]) -> None:
    values = TrainingArguments(**other_values).to_dict()

    assert json.loads(json.dumps(values)) == values
    assert type(values["lr_scheduler_type"]) is str
    for hidden in ("evaluation_strategy", "no_cuda", "past_index", "activation_checkpointing"):
        assert hidden not in values


def test_dict_is_a_copy() -> None:
    args = TrainingArguments("out", lr_scheduler_kwargs={"a": 1}, label_names=["x"])
    values = args.to_dict()
    values["lr_scheduler_kwargs"]["a"] = 2
    values["label_names"].append("y")

    assert (args.lr_scheduler_kwargs, args.label_names) == ({"a": 1}, ["x"])


def test_arguments_built_from_the_dict_are_equal(other_values: dict[str, Any]) -> None:
    args = TrainingArguments(**other_values)

    assert TrainingArguments(**args.to_dict()) == args


def test_secrets_are_masked_everywhere() -> None:
    args = WithSecrets("out", **SECRETS, tokenizer_name="mine")

    for text in (str(args), repr(args), args.to_json_string(), str(args.to_dict()), str(args.to_sanitized_dict())):
        for name, secret in SECRETS.items():
            assert secret not in text
            assert f"<{name.upper()}>" in text
        assert "<HUB_TOKEN>" in text
        assert "mine" in text
    assert args.service_token == "s1"


def test_mask_is_not_taken_for_a_secret() -> None:
    assert WithSecrets(**WithSecrets("out", **SECRETS).to_dict()).service_token is None


def test_which_names_are_secret() -> None:
    assert all(map(is_secret, ["hub_token", "token", "my_password_file", "client_secret", "openai_api_key"]))
    assert not any(map(is_secret, ["tokenizer", "include_num_input_tokens_seen", "key"]))


def test_sanitized_dict_holds_only_what_trackers_take(other_values: dict[str, Any]) -> None:
    values = TrainingArguments(**other_values).to_sanitized_dict()

    assert {type(value) for value in values.values()} == {bool, int, float, str}
    assert values["train_batch_size"] == 3
    assert values["eval_batch_size"] == 5
    assert values["label_names"] == "['labels', 'more']"


def test_json_writes_what_it_cannot_hold_as_text() -> None:
    args = TrainingArguments("out", gradient_checkpointing_kwargs={"context_fn": print})

    assert json.loads(args.to_json_string())["gradient_checkpointing_kwargs"] == {"context_fn": repr(print)}


def test_text_shows_one_argument_a_line() -> None:
    lines = str(TrainingArguments("out", eval_strategy="epoch")).splitlines()

    assert lines[0] == "TrainingArguments("
    assert "    eval_strategy='epoch'," in lines
    assert lines[-1] == ")"
