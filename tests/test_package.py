"""What people install: a wheel and an sdist of the tracked files, complete and under one name."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("planners", "trainers", "inference", "evaluation")
COMMANDS = (
    "check",
    "plan_and_preprocess",
    "train",
    "find_best",
    "predict",
    "ensemble",
    "evaluate",
    "compare",
    "surgery",
    "report",
    "dicom_seg",
    "export_model",
    "install_model",
    "phantom",
)
IMPORTER = """
import importlib, json, sys
import renalplan
loaded = [importlib.import_module(name) for name in json.loads(sys.argv[1])]
foreign = [m.__name__ for m in loaded if not m.__file__.startswith(sys.argv[2])]
print(json.dumps([renalplan.__file__, foreign]))
"""


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dist/ with a wheel and an sdist, built from a clean copy of what git knows or would add."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    copy = tmp_path_factory.mktemp("checkout")
    for name in call("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():  # not, if it has been deleted but not yet committed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist")
    call(*build, "--sdist", "--wheel", cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def names(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module_of_the_checkout_and_no_other(wheel: Path) -> None:
    expected = set()
    for folder in ("renalplan", *ROOMS):
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT).as_posix()
            expected.add(inside if folder == "renalplan" else f"renalplan/{inside}")
    assert {name for name in names(wheel) if name.endswith(".py")} == expected


def test_the_wheel_is_one_package_with_types_licence_and_commands(wheel: Path) -> None:
    inside = names(wheel)
    info = "renalplan-0.1.0.dist-info"
    assert {name.split("/")[0] for name in inside} == {"renalplan", info}
    assert "renalplan/py.typed" in inside
    assets = {Path(name).name for name in inside if "/report/assets/" in name}
    assert assets == {"LICENSES.txt", "niivue.umd.js", "report.css", "viewer.js"}
    assert [name for name in inside if name.startswith(info) and name.endswith("LICENSE")]
    with ZipFile(wheel) as archive:
        points = configparser.ConfigParser()
        points.optionxform = str  # type: ignore[assignment,method-assign]
        points.read_string(archive.read(f"{info}/entry_points.txt").decode())
        metadata = archive.read(f"{info}/METADATA").decode()
    wanted = {f"renalplan_{name}": f"renalplan.cli:{name}" for name in COMMANDS}
    assert dict(points["console_scripts"]) == wanted
    assert dict(points["renalplan.trainers"]) == {
        name: f"renalplan.trainers.{module}:{name}"
        for name, module in {
            "UNet": "unet",
            "DenseBiasNet": "densebiasnet",
            "SCUNet": "scunet",
            "BiSCUNet": "biscunet",
            "CPNet": "cpnet",
            "PANet": "panet",
            "GroupTraining": "group",
            "CoarseToFine": "coarse_to_fine",
        }.items()
    }
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata or "License: Apache-2.0" in metadata


def test_every_module_of_the_installed_wheel_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    import json

    target = tmp_path / "target"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    call(*pip, "--target", target, wheel, cwd=tmp_path)
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in names(wheel)
        if name.endswith(".py")
    ]
    assert {"renalplan", *(f"renalplan.{room}" for room in ROOMS)} <= set(modules)
    command = (sys.executable, "-P", "-c", IMPORTER, json.dumps(modules), str(target))
    answer = call(*command, cwd=tmp_path, PYTHONPATH=str(target), OMP_NUM_THREADS="1")
    place, foreign = json.loads(answer.splitlines()[-1])
    assert Path(place) == target / "renalplan" / "__init__.py"
    assert foreign == []


def test_the_sdist_holds_what_a_build_needs(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["setup.py", "pyproject.toml", "LICENSE", "README.md", "renalplan/py.typed"]
    wanted += [f"{folder}/__init__.py" for folder in ("renalplan", *ROOMS)]
    assert set(wanted) <= inside
