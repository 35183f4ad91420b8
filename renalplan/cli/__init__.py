"""The commands: parse, call one function, print."""

from __future__ import annotations

from renalplan.cli.beginning import ended_by_ctrl_c

with ended_by_ctrl_c():
    from renalplan.cli.choosing import find_best
    from renalplan.cli.comparing import compare
    from renalplan.cli.datasets import check, phantom
    from renalplan.cli.ensembling import ensemble
    from renalplan.cli.measuring import dicom_seg, report, surgery
    from renalplan.cli.models import export_model, install_model
    from renalplan.cli.plans import plan_and_preprocess
    from renalplan.cli.predicting import predict
    from renalplan.cli.scoring import evaluate
    from renalplan.cli.training import train

__all__ = [
    "check",
    "compare",
    "dicom_seg",
    "ensemble",
    "evaluate",
    "export_model",
    "find_best",
    "install_model",
    "phantom",
    "plan_and_preprocess",
    "predict",
    "report",
    "surgery",
    "train",
]
