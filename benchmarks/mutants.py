"""Mutation testing: change one thing in a module, run its tests, and see whether they notice.

    python benchmarks/mutants.py --out mutants.json                     all targets
    python benchmarks/mutants.py --out mutants.json --only geometry     targets with this in their name
    python benchmarks/mutants.py --out mutants.json --seconds 200       stops there; run again to go on
    python benchmarks/mutants.py --out mutants.json --show              the table, and what survived

A mutant is one operator, comparison, number, min/max or the like replaced; messages, type hints and
docstrings are left alone. It is loaded in place of the module in a process that has been forked from
one in which the libraries are imported already, so that a mutant costs what its tests cost. Tests run
in the order given and stop at the first failure; thirty seconds count as noticed. A mutant is kept
under its place and text, so what has changed since is run anew.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[1]
LIMIT_S = 30
SURVIVED, KILLED, SLOW = "survived", "killed", "too slow"
LIBRARIES = (
    *("numpy", "scipy.ndimage", "scipy.spatial", "torch", "SimpleITK", "pydantic", "pytest"),
    *("hypothesis.extra.numpy", "skimage.morphology", "cc3d", "edt", "blosc2", "pydicom", "pandas"),
)
LOSSES = ("tests/trainers/test_losses.py", "tests/fuzz/test_losses.py")
TARGETS: dict[str, tuple[str, ...]] = {  # module -> its tests, the fastest first
    "renalplan/geometry.py": ("tests/core/test_geometry.py", "tests/fuzz/test_geometry.py"),
    "renalplan/interpolation.py": (
        "tests/core/test_resampling.py",
        "tests/fuzz/test_preprocessing.py",
    ),
    "renalplan/resampling.py": (
        "tests/core/test_resampling.py",
        "tests/fuzz/test_preprocessing.py",
        "tests/core/test_preprocessing.py",
    ),
    "renalplan/plane_resampling.py": (
        "tests/core/test_resampling.py",
        "tests/fuzz/test_preprocessing.py",
        "tests/inference/test_fields.py",
    ),
    "evaluation/overlap.py": ("tests/evaluation/test_overlap.py", "tests/fuzz/test_metrics.py"),
    "evaluation/surface.py": (
        "tests/evaluation/test_surface.py",
        "tests/evaluation/test_surfels.py",
        "tests/fuzz/test_metrics.py",
    ),
    "evaluation/surfels.py": ("tests/evaluation/test_surfels.py", "tests/fuzz/test_metrics.py"),
    "evaluation/centerline.py": (
        "tests/evaluation/test_centerline.py",
        "tests/fuzz/test_metrics.py",
    ),
    "evaluation/detection.py": (
        "tests/evaluation/test_detection.py",
        "tests/fuzz/test_metrics.py",
    ),
    "trainers/losses/balanced.py": ("tests/trainers/test_balanced.py", *LOSSES),
    "trainers/losses/batch_sums.py": ("tests/trainers/test_parts.py",),
    "trainers/losses/choice.py": ("tests/trainers/test_weighted.py", *LOSSES),
    "trainers/losses/counts.py": LOSSES,
    "trainers/losses/deep_supervision.py": LOSSES,
    "trainers/losses/dice.py": LOSSES,
    "trainers/losses/entropy.py": ("tests/trainers/test_hard_regions.py", *LOSSES),
    "trainers/losses/hard_regions.py": ("tests/trainers/test_hard_regions.py", *LOSSES),
    "trainers/losses/sizes.py": ("tests/trainers/test_weighted.py", *LOSSES),
    "trainers/losses/targets.py": LOSSES,
    "trainers/losses/voxels.py": ("tests/trainers/test_hard_regions.py", *LOSSES),
    "trainers/losses/weighted.py": ("tests/trainers/test_weighted.py", *LOSSES),
}
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor",
         "minimum": "maximum", "argmin": "argmax", "argmax": "argmin", "zeros": "ones"}  # fmt: skip
NAMES |= {"zeros_like": "ones_like", "ones_like": "zeros_like", "ones": "zeros"}
Path_ = tuple[tuple[str, int | None], ...]  # from the tree's root to a node


def children(node: ast.AST) -> Iterator[tuple[tuple[str, int | None], ast.AST]]:
    """The parts of a node in which a mutant makes sense, with where they stand."""
    skipped = {"annotation", "returns", "decorator_list", "exc"}
    for name, value in ast.iter_fields(node):
        if name in skipped or isinstance(node, ast.JoinedStr):
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue  # a guard against defects of ours, which no input reaches
        if isinstance(value, ast.AST):
            yield (name, None), value
        elif isinstance(value, list):
            yield from (((name, n), v) for n, v in enumerate(value) if isinstance(v, ast.AST))


def walk(node: ast.AST, path: Path_ = ()) -> Iterator[tuple[Path_, ast.AST]]:
    yield path, node
    for step, child in children(node):
        yield from walk(child, (*path, step))


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    changed = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        changed.op = OPERATORS[type(node.op)]()
        yield changed
    elif isinstance(node, ast.Compare):
        changed.ops[0] = OPERATORS[type(node.ops[0])]()
        yield changed
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        changed.value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield changed
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in NAMES:
        changed.id = NAMES[node.id]
        yield changed
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        changed.attr = NAMES[node.attr]
        yield changed
    elif isinstance(node, ast.IfExp):
        changed.body, changed.orelse = changed.orelse, changed.body
        yield changed
    elif isinstance(node, ast.Continue | ast.Break):
        yield ast.Break() if isinstance(node, ast.Continue) else ast.Continue()


def replaced(tree: ast.Module, path: Path_, new: ast.AST) -> ast.Module:
    result = copy.deepcopy(tree)
    node: ast.AST = result
    for name, index in path[:-1]:
        node = getattr(node, name) if index is None else getattr(node, name)[index]
    name, index = path[-1]
    if index is None:
        setattr(node, name, new)
    else:
        getattr(node, name)[index] = new
    return ast.fix_missing_locations(result)


def mutants(source: str) -> Iterator[tuple[str, ast.Module]]:
    """Every mutant of a module: what it is, and its tree."""
    tree = ast.parse(source)
    lines = source.splitlines()
    for path, node in walk(tree):
        for number, new in enumerate(changes(node)):
            line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
            where = f"{line}:{column}.{number}  {lines[line - 1].strip()}"
            yield (
                f"{where}  |  {ast.unparse(node)} -> {ast.unparse(new)}",
                replaced(tree, path, new),
            )


class Mutated(SourceFileLoader, MetaPathFinder):
    """Finds one module, and loads another tree in its place."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self.tree = tree

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec")


def start(target: str, tree: ast.Module, tests: Sequence[str]) -> int:
    """Run the tests with a mutant in a process of its own, whose number this is."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    inside = target.removesuffix(".py").removeprefix("renalplan/").replace("/", ".")
    sys.meta_path.insert(0, Mutated(f"renalplan.{inside}", str(ROOT / target), tree))
    import pytest

    quick = ["-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin"]
    os._exit(int(pytest.main([*quick, "--hypothesis-profile=mutants", *tests])))


def notice(
    target: str,
    trees: Iterator[tuple[str, ast.Module]],
    tests: Sequence[str],
    jobs: int,
    end: float,
) -> dict[str, str]:
    """What the tests say of each mutant, until time is up."""
    found: dict[str, str] = {}
    running: dict[int, tuple[str, float]] = {}
    while True:
        while len(running) < jobs and time.monotonic() < end and (one := next(trees, None)):
            running[start(target, one[1], tests)] = one[0], time.monotonic() + LIMIT_S
        if not running:
            return found
        for child, (text, last) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and time.monotonic() > last:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            elif not ended:
                continue
            found[text] = SLOW if not ended else KILLED if status else SURVIVED
            del running[child]
        time.sleep(0.01)


def run(out: Path, only: str, seconds: float, jobs: int) -> None:
    known = json.loads(out.read_text()) if out.exists() else {}
    end = time.monotonic() + seconds
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # what is there already is no mutant's garbage
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for target, names in TARGETS.items():
        if only not in target or time.monotonic() > end:
            continue
        tests = [name for name in names if (ROOT / name).exists()]
        source = (ROOT / target).read_text()
        content = source + "".join((ROOT / name).read_text() for name in tests)
        stamp = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        found = known.get(target, {})
        old = found.get("mutants", {})
        if found.get("stamp") != stamp:  # what was noticed once is, unless the module has changed
            whole = iter([("", ast.parse(source))])
            if notice(target, whole, tests, 1, end)[""] != SURVIVED:
                sys.exit(f"{target}: its tests fail without any mutant, or take too long")
            old = {text: said for text, said in old.items() if said != SURVIVED}
        every = list(mutants(source))
        new = ((text, tree) for text, tree in every if text not in old)
        said = old | notice(target, new, tests, jobs, end)
        result = {text: said[text] for text, _ in every if text in said}
        known[target] = {"stamp": stamp, "mutants": result}
        out.write_text(json.dumps(known, indent=1, ensure_ascii=False))
        print(target, len(result), "of", len(every), "mutants", flush=True)


def show(out: Path) -> None:
    known = json.loads(out.read_text())
    total = caught = 0
    print("| module | mutants | noticed | share |\n|---|---|---|---|")
    for target, found in known.items():
        said = list(found["mutants"].values())
        good = len(said) - said.count(SURVIVED)
        total, caught = total + len(said), caught + good
        print(f"| {target} | {len(said)} | {good} | {good / max(1, len(said)):.0%} |")
    print(f"| all | {total} | {caught} | {caught / max(1, total):.1%} |\n")
    for target, found in known.items():
        for text, said in found["mutants"].items():
            if said == SURVIVED:
                print(f"{target}:{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON to keep what is known in")
    parser.add_argument("--only", default="", help="targets with this in their name")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--show", action="store_true", help="print what is known, and run nothing")
    asked = parser.parse_args()
    if not asked.show:
        os.chdir(ROOT)
        run(asked.out, asked.only, asked.seconds, asked.jobs)
    show(asked.out)


if __name__ == "__main__":
    main()
