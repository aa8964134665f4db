"""`python -m benchmarks.readme`: write the tables of the READMEs' section on speed from the newest results.

Each stands between `<!-- table: NAME -->` and `<!-- end -->`; what is around them is written by people.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TIMES = "\N{MULTIPLICATION SIGN}"
RESULTS = Path(__file__).with_name("results")
READMES = ("README.md", "README.ko.md")

# By implementation: what it is called, and the package whose version is shown.
_NAMES = {
    "loopwright": ("Loopwright", None),
    "transformers": ("transformers", "transformers"),
    "lightning": ("Lightning", "lightning"),
    "ignite": ("Ignite", "pytorch-ignite"),
    "accelerate": ("accelerate", "accelerate"),
    "bare again": ("bare loop, again", None),
    "bare ranks again": ("bare loop, again", None),
}
_KOREAN = {
    "bare loop, again": "기본 루프, 한 번 더",
    "accelerate": "accelerate, 손으로 짠 루프",
    "~1 ms MLP step": "약 1 ms MLP 스텝",
    "~10 ms GPT step": "약 10 ms GPT 스텝",
    "import over `import torch`": "`import torch` 이후의 import 시간",
    "added to a step by its log line": "로그 한 줄이 스텝에 더하는 시간",
    "not shown": "표시하지 않음",
    "shown": "표시",
    "11 that take 50 ms": "50 ms 걸리는 트래커 11개",
    "11 whose service is dead": "서비스가 죽은 트래커 11개",
    "time over the bare loop's": "기본 루프 대비 시간",
    "memory over the predictions": "예측값 외에 쓰는 메모리",
    "all figures": "전체 수치",
}


def main() -> None:
    """Write the tables into both READMEs."""
    for name in READMES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = filled(before, is_korean=name.endswith(".ko.md"))
        path.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{name}: {'as it was' if after == before else 'written'}\n")


def filled(text: str, *, is_korean: bool) -> str:
    """Return `text` with each table as the newest results say."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{table_of(found[1], is_korean=is_korean)}<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def table_of(name: str, *, is_korean: bool) -> str:
    """Return the table called `name`, and a link to the figures that it is made of.

    Raises:
        KeyError: there is no such table, or no result for it.
    """
    make, suite = _TABLES[name]
    file, results = newest(suite)
    rows = list(make(results))
    translated = [[_KOREAN.get(cell, cell) if is_korean else cell for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in translated]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    link = _KOREAN["all figures"] if is_korean else "all figures"
    machine = f"{results['machine']['cores']} {_TIMES} {results['machine']['cpu']}, torch {_version(results, 'torch')}"
    lines.append(f"\n[{link}](benchmarks/results/{file}), {results['machine']['time'][:10]}, {machine}")
    return "\n".join(lines) + "\n"


def newest(suite: str) -> tuple[str, dict[str, Any]]:
    """Return the newest results that hold `suite`, and their file's name.

    Raises:
        KeyError: none does.
    """
    read = [(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in RESULTS.glob("*.json")]
    having = [(results["machine"]["time"], name, results) for name, results in read if suite in results["suites"]]
    if not having:
        raise KeyError(f"no result holds the suite {suite!r}")
    _, name, results = max(having, key=lambda one: one[:2])
    return name, results


def _overhead(results: dict[str, Any]) -> Iterable[list[str]]:
    cases = results["suites"]["overhead"]["cases"]
    shown = {"~1 ms MLP step": "mlp1, log 10", "~10 ms GPT step": "gpt10, log 10"}
    yield ["", *shown]
    for entry in ("loopwright", "bare again", *list(_NAMES)[1:5]):
        # Results of before have the same with a line every 100 steps.
        ratios = [cases.get(case, cases.get(case.partition(",")[0]))["rows"].get(entry) for case in shown.values()]
        if all(ratios):
            yield [_named(entry, results), *(f"{row['cpu_ratio']['median']:.2f} {_TIMES}" for row in ratios)]


def _import(results: dict[str, Any]) -> Iterable[list[str]]:
    yield ["", "import over `import torch`"]
    for statement, row in results["suites"]["import"]["rows"].items():
        entry = next((entry for entry in _NAMES if f"from {entry}" in statement and "Callback" not in statement), None)
        if entry is not None:
            yield [_named(entry, results), f"{row['seconds']['median']:.2f} s"]


def _log(results: dict[str, Any]) -> Iterable[list[str]]:
    added = results["suites"]["log"]["added_us"]
    shown = {"not shown": "no tracker, silent", "shown": "no tracker", "11 that take 50 ms": "11 slow"}
    shown |= {"11 whose service is dead": "11 dead"}
    yield ["added to a step by its log line", *shown]
    for entry in ("loopwright", "transformers"):
        cases = added.get(entry)
        if cases:
            found = (cases.get(case) for case in shown.values())
            yield [
                _named(entry, results),
                *("-" if one is None else f"{one['wall_ms']['median'] / 1e3:.2f} ms" for one in found),
            ]


def _evaluate(results: dict[str, Any]) -> Iterable[list[str]]:
    yield ["", "time over the bare loop's", "memory over the predictions"]
    for entry, row in results["suites"]["evaluate"]["rows"].items():
        if entry in _NAMES:
            yield [
                _named(entry, results),
                f"{row['ratio']['median']:.2f} {_TIMES}",
                f"{max(0.0, row['over_predictions_mb']['median']):.0f} MB",
            ]


def _ranks(results: dict[str, Any]) -> Iterable[list[str]]:
    cases = results["suites"]["ranks"]["cases"]
    shown = {"~1 ms MLP step": "mlp1, log 10", "~10 ms GPT step": "gpt10, log 10"}
    yield ["", *shown]
    for entry in ("loopwright", "bare ranks again", "transformers"):
        found = [cases[case]["rows"].get(entry) for case in shown.values()]
        if all(found):
            yield [_named(entry, results), *(f"{row['wall_ratio']['median']:.2f} {_TIMES}" for row in found)]


_Make = Callable[[dict[str, Any]], Iterable[list[str]]]
_TABLES: dict[str, tuple[_Make, str]] = {
    "overhead": (_overhead, "overhead"),
    "import": (_import, "import"),
    "log": (_log, "log"),
    "evaluate": (_evaluate, "evaluate"),
    "ranks": (_ranks, "ranks"),
}


def _named(entry: str, results: dict[str, Any]) -> str:
    name, package = _NAMES[entry]
    return name if package is None else f"{name} {_version(results, package)}"


def _version(results: dict[str, Any], package: str) -> str:
    packages = results["machine"]["packages"]
    return str(packages.get(package, "")).partition("+")[0]


if __name__ == "__main__":
    main()
