"""The whole report of one patient: every file, the numbers, the texts, and what is refused."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh
from skimage.io import imread

from renalplan import cli
from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.report.make import patient_report
from renalplan.evaluation.report.records import PatientReport
from renalplan.evaluation.report.rows import sections
from renalplan.evaluation.surgery.report import surgery_report
from renalplan.files import read_record
from renalplan.images import read_volume, write_volume

MOST_PAGE_BYTES = 8_000_000


class Page(HTMLParser):
    """Tags, their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._open.append("")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(made) -> Page:  # type: ignore[no-untyped-def]
    return Page(made.file(".html").read_text())


def test_the_numbers_are_those_of_renalplan_surgery(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    measured = surgery_report(made.segmentation, tmp_path / "n.json", margins=(5,))
    stored = read_record(made.file(".json"), PatientReport)
    assert stored == made.report
    assert stored.numbers == measured
    assert [len(kidney.tumors) for kidney in measured.kidneys] == [0, 1]


def test_every_number_of_the_tables_is_on_the_page(made, page: Page) -> None:  # type: ignore[no-untyped-def]
    shown = list(sections(made.report.numbers))
    assert [section.title for section in shown] == [
        "Right kidney", "Left kidney", "Left kidney, tumor 1",
    ]  # fmt: skip
    cells = [c for s in shown for t in s.tables for row in t.rows for c in (row.name, *row.cells)]
    assert len(cells) > 80
    assert not [cell for cell in cells if cell not in page.text]
    assert "not computable: needs a label for the renal sinus" in page.text
    assert made.report.notice in page.text


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(page: Page) -> None:
    outside = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "data", "srcset", "action", "poster") and value
        if not value.startswith(("data:image/png;base64,", "%3Cscript%3E"))  # or a mesh beside it
    ]
    assert outside == []
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert [tag for tag, _ in page.tags].count("script") == 3
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    assert policy.count("sha256-") == 2


def test_names_are_text(made, page: Page) -> None:  # type: ignore[no-untyped-def]
    assert page.text.count(made.report.case) >= 2  # heading and title
    assert "<b>tumor</b>" in page.text
    scene = json.loads(page.scripts[0])
    assert [one["name"] for one in scene["structures"]][1] == "<b>tumor</b>"


def test_the_bundled_viewer_cannot_end_its_script() -> None:
    for name in ("niivue.umd.js", "viewer.js"):
        text = (files("renalplan.evaluation.report") / "assets" / name).read_text()
        assert "</script" not in text.lower()
        assert "<!--" not in text
    licences = (files("renalplan.evaluation.report") / "assets" / "LICENSES.txt").read_text()
    assert "BSD 2-Clause" in licences
    assert "--" not in licences  # it stands in a comment


def test_the_page_is_no_larger_than_promised(made, page: Page) -> None:  # type: ignore[no-untyped-def]
    assert made.file(".html").stat().st_size < MOST_PAGE_BYTES
    spacing = f"{made.report.viewer_spacing_mm:.2f} mm"
    assert f"resampled to {spacing}" in page.text
    image = base64.b64decode(json.loads(page.scripts[0])["image"])
    assert image[:2] == b"\x1f\x8b"


def test_pdf_and_png_are_there(made) -> None:  # type: ignore[no-untyped-def]
    pdf = made.file(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", pdf)) >= 2
    picture = imread(made.file(".png"))
    assert picture.shape[:2] == pytest.approx((1753, 1240), abs=2)
    yellow = np.abs(picture[..., :3].astype(int) - (255, 210, 63)).max(axis=-1) < 40
    assert yellow.sum() > 1000  # the tumor in the still, its contour, its dot


def test_meshes_lie_where_the_segmentation_does(made) -> None:  # type: ignore[no-untyped-def]
    tumor = made.report.structures[1]
    assert tumor.stl is not None
    assert "LPS_mm" in tumor.stl
    mesh = trimesh.load(made.folder / tumor.stl)
    assert mesh.center_mass == pytest.approx((62, -8, 6), abs=0.3)
    assert mesh.volume / 1000 == pytest.approx(tumor.volume_ml, rel=0.01)
    assert tumor.volume_ml == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.02)
    cyst = made.report.structures[3]  # declared, and nowhere
    assert (cyst.volume_ml, cyst.stl, cyst.glb) == (0, None, None)
    every = trimesh.load(made.folder / made.report.all_glb)
    assert set(every.geometry) == {"kidney", "<b>tumor</b>", "renal_artery"}
    files = {path.name for path in (made.folder / f"{made.report.case}_meshes").iterdir()}
    assert len(files) == 7  # three structures in two formats, and all together
    assert all(re.fullmatch(r"\w+\.(stl|glb)", name) for name in files)


def test_the_same_report_has_the_same_bytes(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    patient_report(made.image, made.segmentation, tmp_path, margins=(5,))
    for ending in (".html", ".pdf", ".png", ".json"):
        name = made.file(ending).name
        assert (tmp_path / name).read_bytes() == made.file(ending).read_bytes(), ending


def test_without_a_kidney_there_is_a_page_without_numbers(
    patient: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, segmentation = patient(tmp_path, "arteries", kidney=False)
    status = cli.report(["-i", str(image), "-s", str(segmentation), "-o", str(tmp_path / "out")])
    assert status == 0
    said = capsys.readouterr().out
    assert "no kidney tissue" in said
    assert str(tmp_path / "out" / "arteries.html") in said
    report = read_record(tmp_path / "out" / "arteries.json", PatientReport)
    assert report.numbers is None
    assert report.without_numbers in Page((tmp_path / "out" / "arteries.html").read_text()).text


def test_a_tumor_in_no_number_is_told_on_the_page(
    patient: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    image, segmentation = patient(tmp_path, "swallowed")
    volume = read_volume(segmentation, labels=True)
    labels = volume.array[0].copy()
    left_kidney = labels[:, :, labels.shape[2] // 2 :] == 1
    labels[:, :, labels.shape[2] // 2 :][left_kidney] = 0
    write_volume(segmentation, labels, volume.grid)
    report = patient_report(image, segmentation, tmp_path / "out", error_bars=False)
    assert report.numbers is not None
    (remark,) = report.numbers.remarks
    assert "62, -8, 6 mm LPS" in remark
    assert remark in Page((tmp_path / "out" / "swallowed.html").read_text()).text


@pytest.mark.parametrize("ending", [".json", ".html", ".pdf", ".png"])
def test_a_file_that_is_no_report_is_refused_before_anything_is_read(
    tmp_path: Path, ending: str
) -> None:
    there = tmp_path / f"case{ending}"
    there.write_text('{"case": "what a segmenter decided"}')
    with pytest.raises(UsageError, match=rf"case\{ending} is there already and is not known"):
        patient_report(tmp_path / "no.nii.gz", tmp_path / "case.nii.gz", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there.name]


def test_an_earlier_report_is_replaced(made) -> None:  # type: ignore[no-untyped-def]
    before = made.file(".json").stat().st_mtime_ns
    patient_report(made.image, made.segmentation, made.folder, margins=(5,))
    assert made.file(".json").stat().st_mtime_ns > before


def test_what_is_refused(made, shapes: SimpleNamespace, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def refused(error: type[Exception], match: str, **given: Any) -> None:
        arguments = {"image": made.image, "segmentation": made.segmentation, "out": tmp_path / "o"}
        with pytest.raises(error, match=match):
            patient_report(**(arguments | given))
        assert not (tmp_path / "o").exists()

    (tmp_path / "file").write_text("")
    refused(UsageError, "is not a folder", out=tmp_path / "file")
    refused(UsageError, "margins", margins=(-1,))
    (tmp_path / "empty").mkdir()
    refused(DatasetError, "no DICOM series; .* the scan's file", image=tmp_path / "empty")
    refused(DatasetError, r"none\.nii does not exist", segmentation=tmp_path / "none.nii")
    volume = read_volume(made.segmentation, labels=True)
    shifted = tmp_path / "shifted.nii.gz"
    grid = shapes.grid_of((0, 0, 0), (20, 20, 20), (2.0, 2.0, 2.0), None)
    write_volume(shifted, np.zeros(grid.shape, np.float32), grid)
    refused(DatasetError, "does not lie on the grid", image=shifted)
    shutil.copyfile(made.segmentation.parent / "dataset.json", tmp_path / "dataset.json")
    nothing = tmp_path / "nothing.nii.gz"
    write_volume(nothing, np.zeros_like(volume.array[0]), volume.grid)
    refused(DatasetError, "nothing to report", segmentation=nothing)
