"""What a stranger sends: names that are more than names, and files that would run code or read others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from battery.making import edit_json
from battery.row import DATA, PREDICT, SCANS, TRUTH
from packaging.requirements import Requirement

Run = Callable[[str], Any]
ROOT = Path(__file__).parents[2]
CASE, STRUCTURE = "<script>alert(1)<!--", '<img src=x onerror="alert(2)">'
SECRET = bytes(range(1, 121))


def test_the_page_shows_names_as_text(here: Path, run: Run) -> None:
    shutil.copytree(TRUTH, "truth")
    edit_json(DATA / "dataset.json", labels={"background": 0, STRUCTURE: 1})
    shutil.copy(DATA / "dataset.json", "truth")
    Path("truth/new.nii.gz").rename(f"truth/{CASE}.nii.gz")
    shutil.copytree("truth", "pred")
    shutil.copy(f"pred/{CASE}.nii.gz", "pred/<b>extra.nii.gz")
    assert run("evaluate pred truth -o out").status == 0
    page = Path("out/summary.html").read_text()
    assert not re.search(r"<(script|img src=x|b>extra)", page)
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;img src=x onerror=&quot;alert(2)&quot;&gt;" in page
    assert "&lt;b&gt;extra" in page


def test_names_that_a_shell_would_obey_are_names(here: Path, run: Run) -> None:
    for name in ("$(touch evil)", ";touch evil;", "--output"):
        shutil.copy(SCANS / "new_0000.nii.gz", SCANS / f"{name}_0000.nii.gz")
    assert run(PREDICT).status == 0
    assert {path.name for path in Path("out").glob("*.nii.gz")} == {
        "$(touch evil).nii.gz", ";touch evil;.nii.gz", "--output.nii.gz", "new.nii.gz",
    }  # fmt: skip
    assert not list(here.rglob("evil"))


def _nrrd(key: str, name: str) -> bytes:
    return (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 6\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nspace origin: (0,0,0)\n"
        f"{key}: {name}\n\n"
    ).encode()


def _mha(name: str) -> bytes:
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\n"
        f"DimSize = 5 4 6\nElementType = MET_UCHAR\nElementDataFile = {name}\n"
    ).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scan_0000.nrrd", _nrrd("data file", "secret.raw")),
        ("scan_0000.nrrd", _nrrd("DataFile", "secret.raw")),
        ("scan_0000.nrrd", _nrrd("data file", "LIST")),
        ("scan_0000.mha", _mha("secret.raw")),
        ("scan_0000.mha", _mha("LIST")),
    ],
)
def test_a_scan_cannot_take_another_file_for_its_voxels(
    here: Path, run: Run, name: str, content: bytes
) -> None:
    folder = Path("scans")
    folder.mkdir()
    (folder / "secret.raw").write_bytes(SECRET)
    (folder / name).write_bytes(content)
    if b"LIST" not in content:  # ITK would read it
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))).sum() == sum(SECRET)
    ran = run(PREDICT.replace(str(SCANS), "scans"))
    assert ran.status == 1
    assert "keeps its voxels in another file" in ran.err
    assert "save it as one file" in ran.err
    assert not list(Path("out").glob("scan.*r*d"))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_scan_in_one_piece_is_read(here: Path, run: Run, ending: str) -> None:
    Path("scans").mkdir()
    image = sitk.ReadImage(str(SCANS / "new_0000.nii.gz"))
    sitk.WriteImage(image, f"scans/scan_0000{ending}", useCompression=True)
    assert run(PREDICT.replace(str(SCANS), "scans")).status == 0
    made = sitk.ReadImage(f"out/scan{ending}")
    np.testing.assert_allclose(made.GetSpacing(), image.GetSpacing())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _brought_along(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What an installed package needs here, if it is installed too."""
    for text in requires(name) or []:
        needed = Requirement(text)
        if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in extras):
            continue
        with suppress(PackageNotFoundError):
            distribution(needed.name)
            yield needed


def test_everything_that_is_installed_is_pinned() -> None:
    """What `make audit` looks up is what `make` installs, and what that brings along."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {_canonical(line.split("==")[0]) for line in lines if "==" in line}
    todo = [("renalplan", frozenset({"", "openvino", "dask", "dicom", "test", "lint"}))]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        for needed in _brought_along(name, extras):
            if _canonical(needed.name) not in pins:  # PyTorch pins the libraries of GPUs itself
                assert str(needed.specifier).startswith("=="), f"{needed.name}, for {name}"
                continue
            entry = (_canonical(needed.name), frozenset({"", *needed.extras}))
            if entry not in seen:
                seen.add(entry)
                todo.append(entry)
    assert len({name for name, _ in seen}) > 50
