"""The command-line parsers that people use build the arguments, old names included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import simple_parsing
import tyro
from transformers import HfArgumentParser

from loopwright.arguments import TrainingArguments

Parse = Callable[[list[str]], TrainingArguments]


def parse_with_transformers(line: list[str]) -> TrainingArguments:
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line, look_for_args_file=False)
    assert isinstance(args, TrainingArguments)
    return args


def parse_with_tyro(line: list[str]) -> TrainingArguments:
    return tyro.cli(TrainingArguments, args=line)


def parse_with_simple_parsing(line: list[str]) -> TrainingArguments:
    return simple_parsing.parse(TrainingArguments, args=line)


@pytest.fixture(autouse=True)
def _field_types_restored() -> Iterator[None]:
    """Undo what HfArgumentParser does: it narrows the types in the fields themselves."""
    before = {field: field.type for field in dataclasses.fields(TrainingArguments)}
    yield
    for field, kind in before.items():
        field.type = kind


every_parser = pytest.mark.parametrize("parse", [parse_with_transformers, parse_with_tyro, parse_with_simple_parsing])


@every_parser
def test_empty_line_gives_the_defaults(parse: Parse) -> None:
    assert parse([]) == TrainingArguments()


@every_parser
def test_line_gives_what_keywords_give(parse: Parse) -> None:
    line = (
        "--output_dir out --learning_rate 1e-3 --eval_strategy epoch --logging_steps 0.1 --bf16 --save_steps 100 "
        "--lr_scheduler_type cosine_with_restarts --warmup_steps 0.05 --max_steps 30 --optim sgd --report_to none "
        "--include_num_input_tokens_seen non_padding --log_level info --dataloader_num_workers 1 "
        "--dataloader_multiprocessing_context spawn --gradient_checkpointing True --run_name first --label_names a b"
    )
    args = parse([*line.split(), "--lr_scheduler_kwargs", '{"num_cycles": 2}'])

    assert args == TrainingArguments(
        output_dir="out",
        learning_rate=1e-3,
        eval_strategy="epoch",
        logging_steps=0.1,
        bf16=True,
        save_steps=100,
        lr_scheduler_type="cosine_with_restarts",
        lr_scheduler_kwargs={"num_cycles": 2},
        warmup_steps=0.05,
        max_steps=30,
        optim="sgd",
        report_to="none",
        include_num_input_tokens_seen="non_padding",
        log_level="info",
        dataloader_num_workers=1,
        dataloader_multiprocessing_context="spawn",
        gradient_checkpointing=True,
        run_name="first",
        label_names=["a", "b"],
    )


@every_parser
def test_old_names_work_on_the_line(parse: Parse) -> None:
    with pytest.warns(DeprecationWarning, match=" is deprecated: give "):
        args = parse(["--evaluation_strategy", "epoch", "--warmup_ratio", "0.1", "--no_cuda", "True"])

    assert (args.eval_strategy, args.warmup_steps, args.use_cpu) == ("epoch", 0.1, True)


def test_bare_flags_of_old_scripts_mean_true() -> None:
    line = [
        "--do_train",
        "--overwrite_output_dir",
        "--fp16",
        "--gradient_checkpointing",
        "--include_num_input_tokens_seen",
    ]
    args = parse_with_transformers([*line, "--no_remove_unused_columns"])

    assert args.do_train
    assert args.overwrite_output_dir
    assert args.fp16
    assert args.gradient_checkpointing
    assert args.include_num_input_tokens_seen == "all"
    assert not args.remove_unused_columns


@every_parser
def test_help_shows_the_texts_on_the_arguments(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])

    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert TrainingArguments.describe("weight_decay") in shown
    assert TrainingArguments.describe("output_dir") in shown


def test_dict_is_parsed_too() -> None:
    (args,) = HfArgumentParser(TrainingArguments).parse_dict({"output_dir": "out", "seed": 3})

    assert args == TrainingArguments("out", seed=3)
