"""`loopwright demo`, from the sources and from a wheel that was built and unpacked."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.running import loopwright

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel's content, in a directory of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        capture_output=True,
        timeout=100,
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_very_program_that_is_in_examples(unpacked):
    program = unpacked / "loopwright" / "cli" / "programs" / "digits.py"
    assert program.read_bytes() == (ROOT / "examples" / "digits.py").read_bytes()


def test_demo_of_a_wheel_trains_and_goes_on(unpacked, tmp_path):
    variables = {"PYTHONPATH": str(unpacked)}
    words = ["demo", tmp_path / "run", "--report-to", "none"]
    first = loopwright(*words, variables=variables, cwd=tmp_path, timeout=200)
    assert first.returncode == 0, first.stderr
    assert float(re.search(r"([0-9.]+)% of 450 held-out images", first.stdout).group(1)) >= 97
    assert (tmp_path / "run" / "journal.db").exists()
    shown = loopwright("show", tmp_path / "run", variables=variables)
    assert shown.returncode == 0, shown.stderr
    assert "EarlyStoppingCallback" in shown.stdout or "completed" in shown.stdout


def test_demo_without_its_packages_says_what_to_install(tmp_path):
    hidden = "import sys; sys.modules['sklearn'] = None; from loopwright.cli.main import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", hidden, "demo", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == (
        'loopwright: loopwright demo needs the package sklearn: pip install "loopwright[demo]"\n'
    )
    assert not (tmp_path / "run").exists()


def test_demo_does_not_write_over_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    finished = loopwright("demo", tmp_path / "file")
    assert finished.returncode == 1
    assert finished.stderr == f"loopwright: {tmp_path / 'file'} is a file: give a directory for the run\n"
