"""Documents say what is: commands exist, links lead somewhere, files named in drawings are there."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import loopwright
from loopwright import Event, Trainer, TrainingArguments, integrations
from loopwright.arguments.docstrings import field_docstrings
from loopwright.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOLDERS = ("src", "tests", "docs", "benchmarks", "examples", "requirements", ".ci")
EVERYTHING = [*ROOT.glob("*"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*"))]
TEXT_FILES = sorted(
    path
    for path in EVERYTHING
    if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".png", ".svg", ".pyc"}
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def make_targets() -> set[str]:
    finished = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"make (\w+)", finished.stdout))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainingArguments)])
def test_argument_is_documented_under_its_field(field: str) -> None:
    assert len(field_docstrings(TrainingArguments).get(field, "")) > 10


def test_makefile_has_the_commands_of_the_house() -> None:
    assert make_targets() >= {"help", "setup", "demo", "test", "lint", "lock", "clean", "benchmark"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)
    named = {target for piece in code for target in re.findall(r"\bmake ([a-z]+)", piece)}
    assert named <= make_targets()
    modules = {name for piece in code for name in re.findall(r"python -m (benchmarks[.\w]*)", piece)}
    assert all((ROOT / module.replace(".", "/")).exists() for module in modules)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_in_pages_exist(page: Path) -> None:
    names = set(re.findall(r"(?<![\w/.<-])((?:\w+/)*\w+\.py)\b", page.read_text(encoding="utf-8")))
    there = [path.as_posix() for path in TEXT_FILES]
    assert [name for name in sorted(names) if not any(path.endswith(f"/{name}") for path in there)] == []


@pytest.mark.parametrize("path", TEXT_FILES, ids=name_of)
def test_file_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="ignore")
    # Split, so that this file does not find itself.
    homes = "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "op" + "t", "Us" + "ers"))
    assert re.findall(rf"(?<![\w.~}}/-])/(?:{homes})/\w+", text) == []
    hosts = "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", r"download\.py" + r"torch\.org"))
    assert re.findall(hosts, text) == []


def test_commands_and_options_are_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `loopwright (\w+)`\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    commands = typer.main.get_command(app).commands
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = [option for option in command.params if option.opts[0].startswith("-") and not option.hidden]
        words = {word for option in options for word in option.opts}
        assert {word for word in words - {"--help"} if f"`{word}`" not in sections[name]} == set(), name
        known = {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
        assert set(re.findall(r"`(--[a-z-]+)`", sections[name])) <= known, name
        assert all(option.help for option in options), name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    finished = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture(scope="module")
def headings_of_reference(site: Path) -> set[str]:
    """What the generated reference has an entry for, by full name."""
    return set(re.findall(r'id="(loopwright[\w.]+)"', (site / "reference/index.html").read_text(encoding="utf-8")))


def test_every_public_name_is_in_the_reference(headings_of_reference: set[str]) -> None:
    homes = [f"loopwright.{module}.{name}" for name, module in loopwright._HOME.items()]
    homes += [f"loopwright.trackers.{module}.{name}" for name, module in integrations._HOME.items()]
    assert [home for home in homes if home not in headings_of_reference] == []
    assert set(loopwright.__all__) - set(loopwright._HOME) == {"__version__"}


def test_every_argument_is_in_the_reference(headings_of_reference: set[str]) -> None:
    entry = "loopwright.arguments.TrainingArguments"
    names = [field.name for field in dataclasses.fields(TrainingArguments)]
    assert [name for name in names if f"{entry}.{name}" not in headings_of_reference] == []


def test_every_public_method_of_the_trainer_is_in_the_reference(headings_of_reference: set[str]) -> None:
    methods = [name for name, value in vars(Trainer).items() if not name.startswith("_") and inspect.isfunction(value)]
    assert [name for name in methods if f"loopwright.trainer.Trainer.{name}" not in headings_of_reference] == []


def test_the_loop_is_drawn_with_every_event(site: Path) -> None:
    page = (site / "callbacks/index.html").read_text(encoding="utf-8")
    drawing = next(
        piece for piece in re.findall(r"<code>.*?</code>", page, flags=re.DOTALL) if "trainer.train()" in piece
    )
    assert [event for event in Event if event != Event.PUSH_BEGIN and event not in drawing] == []


def test_every_command_is_in_the_pages() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(commands) >= 4
    assert [name for name in commands if f"loopwright {name}" not in pages] == []
