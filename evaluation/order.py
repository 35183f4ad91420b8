"""Which of two folders is the prediction: told where the files say it, so that no one scores them swapped."""

from __future__ import annotations

from pathlib import Path

from renalplan.errors import DatasetError, UsageError
from renalplan.files import real_path

REPORT = "predict_report.json"  # what prediction leaves in its folder


def require_order(predictions: Path, references: Path) -> None:
    """Refuse folders that were given in the wrong order.

    Two predictions, or two dataset's labels (of two readers), may be compared.

    Args:
        predictions: Folder that is scored.
        references: Folder that it is scored against.

    Raises:
        DatasetError: one is no folder.
        UsageError: the references hold a prediction's report and the predictions do not, or the
            predictions are a dataset's labels and the references are not.
    """
    for folder in (predictions, references):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder; give a folder of segmentations.")
    if _is_predicted(references) and not _is_predicted(predictions):
        found = f"{references} holds a prediction's {REPORT}"
    elif _is_labels(predictions) and not _is_labels(references):
        found = f"{predictions} holds a dataset's labels"
    else:
        return
    raise UsageError(
        f"{found}: predictions and references look swapped; give the predictions first, then the "
        "references (renalplan_evaluate PRED GT)."
    )


def _is_predicted(folder: Path) -> bool:
    return (folder / REPORT).is_file()


def _is_labels(folder: Path) -> bool:
    place = real_path(folder)
    return place.name.startswith("labels") and (place.parent / "dataset.json").is_file()
