"""Every JSON file we read back, with anything in it: a record, or one of our sentences."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from renalplan.boxes import read_boxes
from renalplan.dataset import Dataset, DatasetDescription
from renalplan.errors import RenalplanError
from renalplan.files import read_record
from renalplan.inference.decisions import CaseDecisions
from renalplan.inference.ensembling import EnsembleReport
from renalplan.inference.probabilities import ProbabilityRecord
from renalplan.inference.report import ReportFile
from renalplan.inference.uncertainty import CaseUncertainty
from renalplan.model_archive import Manifest
from renalplan.model_folder import Finished, ModelFolder, TrainerRecord
from renalplan.plan import Plan
from renalplan.plan_files import PlanOrigin, remembered_options
from renalplan.planners.fingerprint import Fingerprint
from renalplan.postprocessing import Postprocessing
from renalplan.splits import load_splits
from renalplan.store import StoredCase, read_case
from renalplan.store_dataset import InputTable
from renalplan.trainers.anatomy import Anatomies
from renalplan.trainers.boxes import TumorBoxes
from renalplan.trainers.budget import read_budget
from renalplan.trainers.pseudo_masks import ItemMasks
from renalplan.trainers.relabelled import MadeLabels
from renalplan.trainers.rois import Kidneys
from renalplan.trainers.unlabelled import FoundRegions

BOX = [[0, 2], [1, 3], [0, 4]]
DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "left kidney": 1, "right kidney": [2], "tumor": 3, "ignore": 4},
    "file_ending": ".nii.gz",
    "patients": {"a": "p", "b": "q"},
    "mirrored_labels": [["left kidney", "right kidney"]],
}
REGIONS = {
    "channel_names": {"0": "CT", "1": "late"},
    "labels": {"background": 0, "organ": [1, 2], "tumor": 2},
    "regions_class_order": [1, 2],
}
INTENSITIES = {
    "mean": 100.0, "std": 50.0, "minimum": -9.0, "maximum": 900.0, "median": 90.0,
    "percentile_00_5": -60.0, "percentile_99_5": 300.0,
}  # fmt: skip
STAGE = {
    "name": "locate",
    "spacing": [2.0, None, 1.0],
    "median_shape": [8, 8, 8],
    "patch_size": [8, 8, 8],
    "batch_size": 2,
    "network": {"factory": "a:B", "arguments": {"strides": [[1, 1, 1], [2, 2, 2]]}},
    "forecast": {
        "training_memory_gb": 1.5, "parameters": 9, "voxels_per_case": 9,
        "windows_per_case": 2.5, "store_mb_per_case": 1.0,
    },
}  # fmt: skip
PLAN = {
    "name": "renal",
    "dataset": "Dataset001_Test",
    "planner": "renal",
    "axes": ["y", "z", "x"],
    "channels": [
        {"name": "CT", "normalisation": "window", "intensities": INTENSITIES, "window": [-9, 300]}
    ],
    "stages": [STAGE, {**STAGE, "name": "fine", "region": "kidney", "previous": "locate"}],
    "configurations": {"all": ["locate", "fine"], "one": ["locate"]},
    "default_configuration": "all",
}
TRAINER = {
    "trainer": "UNet", "configuration": "all", "settings": {"epochs": 1},
    "networks": {"fine": {"factory": "a:B", "arguments": {}}}, "segmenter": {"factory": "a:B"},
}  # fmt: skip
RULES = {
    "rules": [
        {"rule": "at_most_two_kidneys", "at_most": 3},
        {"rule": "lesions_touch_a_kidney"},
        {"rule": "minimum_volume", "structure": "tumor", "ml": 0.5},
    ]
}
ORIGIN = {
    "fingerprint": "f",
    "options": {"planner": "renal", "spacing": [1.0, 1.0, 1.0], "base_features": 32},
    "written": "w",
}
STORED = {
    "case": "a", "patient": "p", "inputs": "i", "recipe": "r", "spacing": [1.0, 2.0, 3.0],
    "items": [{"name": "a.0", "box": BOX, "shape": [2, 2, 4], "structures": {"kidney": 7}}],
}  # fmt: skip
FINGERPRINT = {
    "dataset": "Dataset001_Test",
    "cases": [
        {
            "id": "a", "spacing": [3.0, 1.0, 1.0], "shape": [9, 9, 9], "shape_after_crop": [8, 8, 8],
            "shape_nonzero": [9, 9, 9], "foreground_share": 0.25,
            "structures": {"kidney": {"volume_ml": 2.5, "thickness_mm": None}},
            "components": [{"volume_ml": 2.5, "box_mm": [0, 0, 0, 1, 1, 1]}],
            "foreground_box_mm": None,
        }
    ],
    "channel_names": ["CT"], "label_names": ["kidney"], "heads": 2, "intensities": [INTENSITIES],
}  # fmt: skip
PROBABILITIES = {
    "models": ["m"],
    "ending": ".nii.gz",
    "labels": {"names": ["background", "kidney"], "values": [[0], [1]]},
    "grid": {
        "size": [2, 3, 4], "spacing": [1.0, 1.0, 2.0], "origin": [0.0, 0.0, 0.0],
        "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    },
    "postprocessing": RULES["rules"],
}  # fmt: skip
REPORT = {
    "job": "j", "models": ["m"], "folds": [["0"]], "options": {"step": 0.5},
    "inputs": {"a": "h"}, "done_seconds": {"a": 1.5}, "kept": [], "failed": {},
}  # fmt: skip
ENSEMBLE = {
    "job": "j", "folders": ["f", "g"], "weights": [1, 2.5], "models": {"f": ["m"]},
    "inputs": {"a": "h"}, "done_seconds": {"a": 1.5}, "kept": [], "failed": {},
}  # fmt: skip
ANATOMY = {
    "items": {
        "a.0": {
            "centre": [1.5, 2.5, 3.5],
            "kidneys": [{"box": BOX, "search": BOX, "centre": [1, 1, 1], "tumor_slices": [1]}],
        }
    }
}
UNCERTAINTY = {
    "case": "a", "score": 0.5, "disagreement_known": True,
    "structures": {"k": {"expected_dice": 0.5, "volume_ml": 1.5, "expected_volume_ml": 1.25}},
}  # fmt: skip


def record(kind: type[BaseModel]) -> Callable[[Path], BaseModel]:
    return lambda path: read_record(path, kind)


def dataset(path: Path) -> object:
    found = Dataset.open(path.parent)
    return found.scheme, found.scheme.mirrored_heads(), found.description


def plan(path: Path) -> object:
    found = Plan.load(path)
    assert sorted(found.order) == [0, 1, 2]
    return found, [found.run(name) for name in found.configurations]


def model(path: Path) -> object:
    texts = {"plan.json": PLAN, "dataset.json": DESCRIPTION, "trainer.json": TRAINER}
    for name, value in texts.items():
        if name != path.name:
            (path.parent / name).write_text(json.dumps(value))
    found = ModelFolder.open(path.parent)
    return found.plan, found.scheme, found.record, found.postprocessing


# file, what is in it, and who reads it
READERS: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "dataset": ("dataset.json", DESCRIPTION, dataset),
    "regions": ("dataset.json", REGIONS, dataset),
    "description": ("dataset.json", DESCRIPTION, record(DatasetDescription)),
    "plan": ("plan.json", PLAN, plan),
    "origin": ("renal/plan_origin.json", ORIGIN, lambda path: remembered_options(path.parents[1])),
    "origin record": ("plan_origin.json", ORIGIN, record(PlanOrigin)),
    "model's plan": ("plan.json", PLAN, model),
    "model's dataset": ("dataset.json", DESCRIPTION, model),
    "trainer": ("trainer.json", TRAINER, model),
    "trainer record": ("trainer.json", TRAINER, record(TrainerRecord)),
    "postprocessing": ("postprocessing.json", RULES, model),
    "rules": ("postprocessing.json", RULES, record(Postprocessing)),
    "finished": ("finished.json", {"phases": ["a"], "seconds": 1.5}, record(Finished)),
    "splits": (
        "splits.json",
        [{"train": ["a"], "val": ["b"]}],
        lambda path: load_splits(path, {"a": "p", "b": "q"}),
    ),
    "budget": (
        "budget.json",
        {
            "seconds": 9.5, "used": 1, "begun": {"a": {"at": 0.5}},
        },
        lambda path: read_budget(path.parent),
    ),
    "stored case": ("a.json", STORED, lambda path: read_case(path.parent, "a")),
    "stored record": ("a.json", STORED, record(StoredCase)),
    "inputs": (
        "inputs.json", {"cases": {"a": {"files": {"f": [1, 2]}, "hash": "h"}}}, record(InputTable),
    ),
    "fingerprint": ("fingerprint.json", FINGERPRINT, record(Fingerprint)),
    "probabilities": ("a.probabilities.json", PROBABILITIES, record(ProbabilityRecord)),
    "predict report": ("predict_report.json", REPORT, record(ReportFile)),
    "ensemble report": ("ensemble_report.json", ENSEMBLE, record(EnsembleReport)),
    "decisions": ("a.json", {"case": "a", "decisions": {"m": {"k": 1}}}, record(CaseDecisions)),
    "uncertainty": ("a.json", UNCERTAINTY, record(CaseUncertainty)),
    "manifest": (
        "manifest.json",
        {"name": "n", "dataset": "d", "files": {"plan.json": {"size": 1, "blake2b": "h"}}},
        record(Manifest),
    ),
    "anatomy": ("anatomy.json", ANATOMY, record(Anatomies)),
    "boxes": ("boxes.json", {"source": "s", "boxes": {"a": [BOX]}}, record(TumorBoxes)),
    "made labels": ("a.json", {"structures": {"kidney": 1}}, record(MadeLabels)),
    "masks": ("a.json", {"boxes": [{"share": 0.5, "fell_back": False}]}, record(ItemMasks)),
    "kidneys": (
        "kidneys.json",
        {"boxes": {"a": [BOX]}, "error_mm": [1, 2, 3.5], "compared": 1, "missed": 0},
        record(Kidneys),
    ),
    "regions found": ("regions.json", {"boxes": {"a": [BOX]}}, record(FoundRegions)),
}  # fmt: skip

HUGE = st.sampled_from([10**18, -(2**63), 2**64, 10**400, 1e308, -0.0, float("nan"), float("inf")])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70000)
    | HUGE
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["", "\ud800", "a\0b", "../../etc", "1e5", "nan", "locate", "kidney"])
)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where something stands in a JSON value, the value itself included."""
    inside = enumerate(value) if isinstance(value, list) else ()
    inside = value.items() if isinstance(value, dict) else inside
    return [path, *(p for key, child in inside for p in places(child, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which some parts are gone, renamed, doubled, or something else."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = (None, *draw(st.sampled_from(places(value))))
        if last is None:
            return draw(anything)
        parent = value
        for key in path[1:]:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double"]))
        if what == "replace":
            parent[last] = draw(anything)
        elif what == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = copy.deepcopy(parent[last])
        else:
            parent.append(copy.deepcopy(parent[last]))
    return value


def finite(value: Any) -> bool:
    """Whether every number of a record is one."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, BaseModel):
        return finite(dict(value))
    if is_dataclass(value):
        return finite([getattr(value, field.name) for field in fields(value)])
    if isinstance(value, dict):
        return all(finite(v) for v in value.values())
    return all(finite(v) for v in value) if isinstance(value, list | tuple) else True


def read(folder: Path, kind: str, content: bytes) -> None:
    name, _, reader = READERS[kind]
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        found = reader(path)
    except RenalplanError as problem:
        told = str(problem)
    else:
        assert finite(found)
        return
    assert str(folder) in told
    told.encode("utf-8")  # it can be shown, logged and written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.mark.parametrize("kind", READERS)
def test_the_examples_are_valid(folder: Path, kind: str) -> None:
    name, value, reader = READERS[kind]
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    assert finite(reader(path))


@given(st.data())
def test_any_json_is_a_record_or_refused(folder: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(READERS)))
    value = data.draw(changed(READERS[kind][1]))
    read(folder, kind, json.dumps(value).encode())


@given(st.data())
def test_any_text_is_a_record_or_refused(folder: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(READERS)))
    text = bytearray(json.dumps(READERS[kind][1]).encode())
    for place in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=3)):
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2)
            | st.sampled_from([b"9" * 5000, b"1e999", b"[" * 20000, b'"\\ud800"'])
        )
    read(folder, kind, bytes(text))


@given(st.lists(st.lists(st.text(max_size=5) | st.integers().map(str), max_size=9), max_size=4))
def test_any_table_of_boxes_is_read_or_refused(folder: Path, rows: list[list[str]]) -> None:
    path = folder / "boxesTr.csv"
    header = "case,label,z0,y0,x0,z1,y1,x1"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]), "utf-8", "replace")
    with contextlib.suppress(RenalplanError):
        found = read_boxes(path, [1, 2], ["a"])
        assert set(found) <= {"a"}
