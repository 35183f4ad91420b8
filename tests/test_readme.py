"""What README, docs and Makefile show exists: files, commands, options, settings."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from renalplan import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# all but what is made of commands that are wrong on purpose
WRITTEN = [p for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "robustness.md"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN]
COMMAND = re.compile(
    r"renalplan_(?:check|plan_and_preprocess|train|find_best|predict|ensemble|evaluate|compare|surgery|report|dicom_seg|phantom)\b.*"
)
# options of dask's and SLURM's commands
FOREIGN = {"--nthreads", "--nworkers", "--memory-limit", "--gres"}
# made by the commands or by the user, not part of the checkout
MADE = (
    "demo/",
    "raw/",
    "preprocessed/",
    "results/",
    "imagesTr/",
    "labelsTr/",
    "renalplan_workspace/",
)


class Parsed(Exception):  # noqa: N818  (not an error: the parser accepted the line)
    """Raised instead of running the command."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], argparse.Namespace]:
    """Let a command's own parser read a command line, without running it."""
    for way in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, way)

        def stop(self: argparse.ArgumentParser, *given: Any, real: Any = real) -> None:
            raise Parsed(real(self, *given))

        monkeypatch.setattr(argparse.ArgumentParser, way, stop)

    def read(line: str) -> argparse.Namespace:
        name, *arguments = shlex.split(line, comments=True)
        with pytest.raises(Parsed) as parsed:
            getattr(cli, name.removeprefix("renalplan_"))(arguments)
        namespace: argparse.Namespace = parsed.value.args[0]
        return namespace

    return read


def shown_commands(page: Path) -> Iterator[str]:
    """Whole command lines: those in code blocks, and those between backticks with arguments."""
    block = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            block = not block
        elif block and line.strip().startswith("renalplan_") and COMMAND.match(line.strip()):
            yield line.strip()
        elif not block:
            quoted = re.findall(r"`([^`]+)`", line)
            yield from (text for text in quoted if COMMAND.fullmatch(text) and " " in text)


LINES = [(page.name, line) for page in PAGES for line in shown_commands(page)]


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{p}: {c}" for p, c in LINES])
def test_a_command_that_is_shown_is_accepted(
    parse: Callable[[str], argparse.Namespace], page: str, line: str
) -> None:
    parse(line)


def test_the_pages_show_every_command() -> None:
    installed = {
        p.name for p in entry_points(group="console_scripts") if p.name.startswith("renalplan_")
    }
    shown = set(re.findall(r"renalplan_[a-z_]+", README)) - {"renalplan_workspace"}
    assert shown == installed


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_option_named_alone_exists(page: Path) -> None:
    code = "".join(path.read_text() for path in (ROOT / "renalplan" / "cli").glob("*.py"))
    declared = re.findall(r'"(--[a-zA-Z_-]+)"', code)
    off = {"--no-tta", "--no-postprocessing", "--no-error_bars"}
    known = {*declared, *FOREIGN, *off, "--help"}
    text = re.sub(r"(?:pip|git|pytest|python)\b[^`\n]*", "", page.read_text())
    assert set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)) <= known


def test_every_setting_that_is_shown_exists(parse: Callable[[str], argparse.Namespace]) -> None:
    from renalplan.trainers.registry import find_trainer
    from renalplan.trainers.settings import parse_settings

    settings = find_trainer("UNet").Settings
    makefile = (ROOT / "Makefile").read_text()
    shown = [re.search(r"DEMO_SCHEDULE := (.*)", makefile)[1]]  # type: ignore[index]
    shown += re.findall(r"--set ([^`#\n]+)", README)
    assert len(shown) > 2
    for text in shown:
        parse_settings(settings, text.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_linked_file_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_folder_and_file_the_readme_names_exists() -> None:
    named = set(re.findall(r"`([\w./-]+/|[\w./-]+\.(?:py|md|txt|toml))`", README))
    named = {name for name in named if not name.startswith(MADE) and name != "plan.json"}
    assert {"renalplan/", "planners/", "trainers/", "inference/", "evaluation/"} <= named
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_folder_of_code_is_in_the_readmes_map() -> None:
    for init in ROOT.glob("*/__init__.py"):
        assert f"`{init.parent.name}/`" in README


def test_the_versions_agree() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"][
        "target-version"
    ]
    setup = (ROOT / "setup.py").read_text()
    assert required == "py311"
    assert 'python_requires=">=3.11"' in setup
    assert "Python 3.11 or newer" in README


def makefile_variables(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) [:?]= (.*)$", text, re.MULTILINE))


def demo_lines() -> list[str]:
    """The recipe of `make demo`, variables put in."""
    text = (ROOT / "Makefile").read_text()
    recipe = text.split("\ndemo:")[1].split("\n\n")[0].splitlines()[1:]
    variables = makefile_variables(text)
    lines = []
    for line in recipe:
        while names := re.findall(r"\$\((\w+)\)", line):
            for name in names:
                line = line.replace(f"$({name})", variables[name])
        lines.append(line.strip())
    return lines


DEMO = [line.rpartition("bin/")[2] for line in demo_lines() if "renalplan_" in line]


@pytest.mark.parametrize("line", DEMO, ids=lambda line: line.split()[0])
def test_the_demo_uses_options_that_exist(
    parse: Callable[[str], argparse.Namespace], line: str
) -> None:
    parse(line)


def test_the_demo_goes_the_whole_way() -> None:
    commands = [line.split()[0].removeprefix("renalplan_") for line in DEMO]
    assert list(dict.fromkeys(commands)) == [
        "phantom", "check", "plan_and_preprocess", "train", "predict", "evaluate", "report",
    ]  # fmt: skip
