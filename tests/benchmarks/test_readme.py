"""The READMEs' tables are those of the newest results."""

import pytest

from benchmarks.readme import READMES, ROOT, filled


@pytest.mark.parametrize("name", READMES)
def test_tables_are_what_the_newest_results_say(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert filled(text, is_korean=name.endswith(".ko.md")) == text, "python -m benchmarks.readme writes them"
    assert text.count("<!-- table: ") == text.count("<!-- end -->") >= 4
