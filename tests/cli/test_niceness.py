"""The delivery process gives way to the training, also where Linux shares its time among sessions first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
GIVE_WAY = """
import os
from loopwright.cli.sync import _make_kind

_make_kind()
print(os.nice(0), *open("/proc/self/autogroup").read().split()[-1:])
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="the system shares its time among processes")
@pytest.mark.parametrize("has_own_session", [True, False])
def test_delivery_gives_way_with_its_session_but_with_no_other(has_own_session):
    before = AUTOGROUP.read_text().split()[-1:]  # none in a session that is in no group, as a service's may be
    said = subprocess.run(
        [sys.executable, "-c", GIVE_WAY],
        start_new_session=has_own_session,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said == [str(os.nice(0) + 5), *(["5"] if has_own_session else before)]
