"""The words that arguments may be set to."""

from __future__ import annotations

import copy
import pickle

import pytest
from transformers import trainer_utils, training_args

from loopwright.arguments import choices
from loopwright.arguments.choices import (
    Choice,
    IntervalStrategy,
    OptimizerNames,
    SaveStrategy,
    SchedulerType,
    TokenCount,
)
from loopwright.errors import ArgumentError

ALL_KINDS = [
    kind
    for kind in vars(choices).values()
    if isinstance(kind, type) and issubclass(kind, Choice) and kind is not Choice
]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_members_are_their_words(kind: type[Choice]) -> None:
    for member in kind:
        word = str(member.value)
        assert member == word
        assert str(member) == f"{member}" == word
        assert repr(member) == repr(word)
        assert member in {word}
        assert {member: 1}[word] == 1
        assert kind(word) is member
        assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is member


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (choices.IntervalStrategy, trainer_utils.IntervalStrategy),
        (choices.SaveStrategy, trainer_utils.SaveStrategy),
        (choices.SchedulerType, trainer_utils.SchedulerType),
        (choices.HubStrategy, trainer_utils.HubStrategy),
    ],
)
def test_names_and_words_are_those_of_transformers(ours: type[Choice], theirs: type) -> None:
    assert {member.name: str(member) for member in ours} == {member.name: member.value for member in theirs}  # type: ignore[attr-defined]


def test_every_optimizer_of_transformers_is_known() -> None:
    ours = {member.name: str(member) for member in OptimizerNames}
    theirs = {member.name: member.value for member in training_args.OptimizerNames}

    assert theirs.items() <= ours.items()
    assert ours.keys() - theirs.keys() == {"ADAMW_HF", "ADAMW_APEX_FUSED"}, "those that only 4.47 had"


def test_members_of_other_libraries_are_taken() -> None:
    assert SchedulerType(trainer_utils.SchedulerType.COSINE) is SchedulerType.COSINE
    assert SaveStrategy(IntervalStrategy.EPOCH) is SaveStrategy.EPOCH


def test_unknown_word_gets_the_allowed_ones_and_the_nearest() -> None:
    with pytest.raises(ArgumentError) as caught:
        IntervalStrategy("step")

    assert str(caught.value) == (
        "'step' is not a IntervalStrategy: expected one of 'no', 'steps', 'epoch'; did you mean 'steps'?"
    )


def test_token_count_takes_the_flag_that_it_once_was() -> None:
    assert TokenCount(True) is TokenCount.ALL
    with pytest.raises(ArgumentError):
        TokenCount(1.5)
