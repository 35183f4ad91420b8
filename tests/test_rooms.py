"""Rooms import the core, never each other, and always by their full name; and the other house rules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("planners", "trainers", "inference", "evaluation")
FOLDERS = ("renalplan", *ROOMS)
# what each folder may import besides the core and itself
ALSO = {
    "renalplan": (),
    "planners": (),
    "trainers": ("inference",),
    "inference": (),
    "evaluation": (),
}
COMMAND_MODULES = (
    "planning.py",
    "integrity.py",
    "plan_files.py",
    "training.py",
    "training_budget.py",
    "training_checks.py",
    "fold_validation.py",
    "training_hardware.py",
    "predicting.py",
    "sharing.py",
    "finding_best.py",
    "held_out.py",
    "rule_choice.py",
)  # see every room
CLI = ROOT / "renalplan" / "cli"
COMMAND_PATHS = [ROOT / "renalplan" / name for name in COMMAND_MODULES] + sorted(CLI.glob("*.py"))
LINES, FUNCTION_LINES = 400, 80


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


CODE = sources(*FOLDERS)
EVERYTHING = [*CODE, *sources("tests", "benchmarks", "docs"), ROOT / "setup.py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """Every imported name in full; `from x import y` counts as `x.y`, dots as they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def types_only(tree: ast.Module) -> list[ast.If]:
    """The `if TYPE_CHECKING:` blocks: nothing in them is imported when the program runs."""
    return [
        node
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def forbidden(source: str, folder: str, *, all_rooms: bool = False) -> list[str]:
    """The imports of a module of `folder` that break the law."""
    rooms = [room for room in ROOMS if room not in (folder, *ALSO.get(folder, ()))]
    barred = [] if all_rooms else [f"renalplan.{room}" for room in rooms]
    barred += [*ROOMS, "tests", "benchmarks"]
    return [
        name
        for name in imported(ast.parse(source))
        if name.startswith(".") or any(within(name, package) for package in barred)
    ]


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_module_imports_only_what_its_folder_may(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    free = path in COMMAND_PATHS
    assert not forbidden(path.read_text(), folder, all_rooms=free)


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("planners", "import renalplan.trainers"),
        ("planners", "from renalplan import trainers"),
        ("planners", "def f():\n    from renalplan.inference import predictor"),
        ("evaluation", "import renalplan.inference.predictor as p"),
        ("inference", "from renalplan.trainers.losses import Dice"),
        ("trainers", "from renalplan.planners import options"),
        ("renalplan", "from renalplan.planners.options import PlanOptions"),
        ("trainers", "import trainers.losses"),
        ("trainers", "from trainers import losses"),
        ("trainers", "from . import losses"),
        ("trainers", "from .losses import Dice"),
        ("inference", "from tests import conftest"),
    ],
)
def test_the_law_catches(folder: str, line: str) -> None:
    assert forbidden(line, folder)


def test_the_law_lets_pass() -> None:
    assert not forbidden("from renalplan.inference.fields import MeanField", "trainers")
    assert not forbidden("from renalplan.planners.spacing import f", "planners")
    assert not forbidden("import renalplan.plan\nimport numpy", "evaluation")
    assert not forbidden("from renalplan.trainers import x", "renalplan", all_rooms=True)


def test_the_package_itself_imports_nothing_of_ours() -> None:
    names = list(imported(ast.parse((ROOT / "renalplan/__init__.py").read_text())))
    assert not [name for name in names if within(name, "renalplan")]


@pytest.mark.parametrize("path", COMMAND_PATHS, ids=name_of)
def test_a_command_module_imports_rooms_only_when_it_needs_them(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = list(imported(ast.Module(top, [])))
    assert not [n for n in names if any(within(n, f"renalplan.{room}") for room in ROOMS)]
    for block in types_only(tree):
        assert all(within(n, "renalplan") for n in imported(block))


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_nobody_imports_a_room_by_its_short_name(path: Path) -> None:
    """`import planners` works in the checkout, as a second copy of every class."""
    names = list(imported(ast.parse(path.read_text())))
    assert not [name for name in names if any(within(name, room) for room in ROOMS)]


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_only_the_command_line_prints_and_nothing_runs_code_of_a_file(path: Path) -> None:
    tree = ast.parse(path.read_text())
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    barred = {"eval", "exec", "compile", "__import__"}
    if path.parent != CLI:
        barred.add("print")
    assert not called & barred
    modules = {name.split(".")[0] for name in imported(tree)}
    assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    # marshal's and yaml's kin, archives that are unpacked unseen, and shells
    assert not modules & {"yaml", "tarfile", "pty", "commands", "xml", "dbm"}
    text = path.read_text()
    assert not re.search(r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|shell\s*=\s*True", text)
    assert not re.search(r"\.(extract|extractall|unpack_archive|read_pickle|system|popen)\(", text)
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        assert not call.startswith(("torch.jit.load", "torch.package", "torch.hub"))
        assert "weights_only=True" in call or not call.startswith("torch.load(")
        assert "allow_pickle=False" in call or not call.startswith("np.load(")


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module needs a docstring"
    assert len(text.splitlines()) <= LINES
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in CODE}
    assert not [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()]
