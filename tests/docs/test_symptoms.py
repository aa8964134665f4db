"""What the page of symptoms quotes is what the code says."""

from __future__ import annotations

import pytest

from tests.docs.blocks import ROOT
from tests.docs.symptoms import is_said, said_by_the_code, symptoms

QUOTED = symptoms(ROOT / "docs" / "troubleshooting.md")


@pytest.fixture(scope="module")
def texts():
    return said_by_the_code()


@pytest.mark.parametrize("quoted", QUOTED)
def test_symptom_is_in_the_words_of_the_code(quoted, texts):
    assert is_said(quoted, texts)


def test_there_are_symptoms_and_another_text_is_not_said(texts):
    assert len(QUOTED) > 30
    assert not is_said("… has no checkpoint that anybody could take", texts)
