"""renalplan: self-configuring kidney-CT segmentation.

Each command is also a function here, with the same name and arguments; nothing heavy is imported
until it is called.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "check_dataset": "renalplan.integrity",
    "plan_and_preprocess": "renalplan.planning",
    "train": "renalplan.training",
    "predict": "renalplan.predicting",
    "ensemble_folders": "renalplan.inference.ensembling",
    "find_best": "renalplan.finding_best",
    "export_model": "renalplan.sharing",
    "install_model": "renalplan.sharing",
    "evaluate_folders": "renalplan.evaluation.evaluate",
    "compare_runs": "renalplan.evaluation.comparison",
    "surgery_report": "renalplan.evaluation.surgery.report",
    "patient_report": "renalplan.evaluation.report.make",
    "write_dicom_seg": "renalplan.evaluation.report.dicom_seg",
    "make_phantom_dataset": "renalplan.phantom",
    "Predictor": "renalplan.inference.predictor",
    "InferenceOptions": "renalplan.inference.options",
    "Trainer": "renalplan.trainers.trainer",
    "Workspace": "renalplan.workspace",
    "RenalplanError": "renalplan.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'renalplan' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
