"""Shell completion: scripts are produced, and what they call answers with commands, options and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.cli.running import loopwright


def complete(line, cwd):
    """Return what bash is offered for the last word of `line`."""
    variables = {
        "_LOOPWRIGHT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - (not line.endswith(" "))),
    }
    finished = loopwright(variables=variables, cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_produced(shell):
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    finished = loopwright("--show-completion", shell, variables=variables)
    assert finished.returncode == 0, finished.stderr
    assert "_LOOPWRIGHT_COMPLETE=complete_" + shell in finished.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_takes_the_script_and_completes_by_it(tmp_path):
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = loopwright("--show-completion", "bash", variables=variables).stdout
    (tmp_path / "loopwright").write_text(f'#!/bin/sh\nexec {sys.executable} -m loopwright "$@"\n')
    (tmp_path / "loopwright").chmod(0o755)
    program = (
        f"{script}\nCOMP_WORDS=(loopwright do); COMP_CWORD=1; _loopwright_completion loopwright; echo ${{COMPREPLY[@]}}"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    finished = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, timeout=100, check=True, env=environment
    )
    assert finished.stdout.split() == ["doctor"], finished.stderr


def test_completion_can_be_installed_for_a_home(tmp_path):
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    finished = loopwright("--install-completion", "bash", variables=variables)
    assert finished.returncode == 0, finished.stderr
    assert "loopwright" in (tmp_path / ".bashrc").read_text()


def test_commands_options_and_runs_are_offered(whole):
    place = whole.parent
    assert {"show", "sync"} <= set(complete("loopwright s", place))
    assert {"--json", "--plot"} <= set(complete("loopwright show --", place))
    assert complete("loopwright show wh", place) == ["whole"]
    assert complete("loopwright export --format p", place) == ["parquet"]
