"""Arguments from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopwright.arguments import TrainingArguments
from loopwright.errors import ArgumentError, MissingExtra

TEXTS = {
    "args.json": '{"output_dir": "out", "learning_rate": 1e-3, "eval_strategy": "no", "label_names": ["a", "b"]}',
    "args.yaml": "output_dir: out\nlearning_rate: 1e-3\neval_strategy: no\nlabel_names: [a, b]\n",
    "args.yml": "output_dir: out\nlearning_rate: '1e-3'\neval_strategy: 'no'\nlabel_names:\n- a\n- b\n",
    "args.TOML": 'output_dir = "out"\nlearning_rate = 1e-3\neval_strategy = "no"\nlabel_names = ["a", "b"]\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_kind_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(TEXTS[name])

    expected = TrainingArguments("out", learning_rate=1e-3, eval_strategy="no", label_names=["a", "b"])
    assert TrainingArguments.from_file(file) == expected
    assert TrainingArguments.from_file(str(file)) == expected


def test_overrides_take_precedence(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_text(TEXTS["args.json"])

    args = TrainingArguments.from_file(file, learning_rate=0.5, max_steps=3)

    assert (args.output_dir, args.learning_rate, args.max_steps) == ("out", 0.5, 3)


def test_written_json_is_read_again_over_all_arguments(tmp_path: Path, other_values: dict[str, Any]) -> None:
    for values in ({"output_dir": "out"}, other_values):
        args = TrainingArguments(**values)
        as_json, as_yaml = tmp_path / "args.json", tmp_path / "args.yaml"
        as_json.write_text(args.to_json_string())
        as_yaml.write_text(yaml.safe_dump(args.to_dict()))

        assert TrainingArguments.from_file(as_json) == args
        assert TrainingArguments.from_file(as_yaml) == args


def test_old_names_are_read_with_a_warning_that_points_here(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    file.write_text('{"evaluation_strategy": "epoch"}')

    with pytest.warns(DeprecationWarning, match="eval_strategy") as caught:
        assert TrainingArguments.from_file(file).eval_strategy == "epoch"
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.json",
            '{"lerning_rate": 1}',
            "'lerning_rate' in {file} is not a training argument; did you mean 'learning_rate'?",
        ),
        ("a.yaml", "qqqq: 1", "'qqqq' in {file} is not a training argument"),
        ("a.json", "[1]", "{file}: expected names of arguments with their values, found a list"),
        ("a.yaml", "", "{file}: expected names of arguments with their values, found a NoneType"),
        ("a.ini", "x", "{file}: expected a file ending in .json, .yaml, .yml, .toml"),
        ("a.json", '{"learning_rate": "fast"}', "learning_rate='fast': expected a number"),
    ],
)
def test_unusable_file_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)

    with pytest.raises(ArgumentError) as caught:
        TrainingArguments.from_file(file)
    assert str(caught.value) == message.format(file=file)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{"), ("a.yaml", "a: [1"), ("a.toml", "a ="), ("a.json", b"\xff")]
)
def test_broken_file_is_named(tmp_path: Path, name: str, text: str | bytes) -> None:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ArgumentError, match=r"can't be read: ") as caught:
        TrainingArguments.from_file(file)
    assert str(caught.value).startswith(str(file))


def test_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TrainingArguments.from_file(tmp_path / "absent.json")


def test_yaml_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 1")
    monkeypatch.setattr("loopwright._support.extras.is_installed", lambda module: False)

    with pytest.raises(MissingExtra, match=r'pip install "loopwright\[yaml\]"'):
        TrainingArguments.from_file(file)


def test_json_holds_no_secret(tmp_path: Path) -> None:
    assert json.loads(TrainingArguments("out").to_json_string())["hub_token"] == "<HUB_TOKEN>"
