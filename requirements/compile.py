"""Make the locks: one set of pins for every supported Python and platform, all resolving together.

    make lock                     after a change of pyproject.toml: known pins stay
    make lock ARGS=--upgrade      newest versions of everything

`demo.lock` is a part of `dev.lock`, so the demo runs on what the tests ran on.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
HEADER = "# Made by `make lock` (requirements/compile.py); not edited by hand.\n"


def main() -> None:
    """Compile both locks, handing the command line's arguments on to uv."""
    compile_lock("dev", HERE / "constraints.txt")
    compile_lock("demo", HERE / "dev.lock")


def compile_lock(extra: str, constraints: Path) -> None:
    """Write `<extra>.lock`: the project with that extra, and what builds it."""
    lock = HERE / f"{extra}.lock"
    subprocess.run(
        [
            *(str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet"),
            *("--extra", extra, str(ROOT / "pyproject.toml"), str(HERE / "build.in")),
            *("--constraints", str(constraints)),
            # One version of each package for all: what is tested on one Python is what runs on another.
            *("--universal", "--fork-strategy", "fewest", "--python-version", lowest_python()),
            # The lock must read the same whatever mirror it was made with.
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--output-file", str(lock)),
            *sys.argv[1:],
        ],
        check=True,
    )
    lock.write_text(HEADER + without_builds_of_torch(lock.read_text(encoding="utf-8")), encoding="utf-8")


def lowest_python() -> str:
    """Return the lowest Python that pyproject.toml allows, such as "3.11"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["requires-python"]).removeprefix(">=")


def without_builds_of_torch(text: str) -> str:
    """Return the lock with torch as one line, whatever the build, and without the CUDA packages of one of them.

    A machine may hold a build of its own (such as 2.13.0+cpu), which `torch==2.13.0` accepts. Each build names the
    exact CUDA packages that it needs, so pinning them here would add nothing but gigabytes to those that need none.
    """
    kept = []
    for line in text.splitlines():
        name, _, rest = line.partition("==")
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        kept.append(f"torch=={rest.split()[0].partition('+')[0]}" if name == "torch" else line)
    return "\n".join(dict.fromkeys(kept)) + "\n"


if __name__ == "__main__":
    main()
