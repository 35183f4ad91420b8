"""What `renalplan_export_model` and `renalplan_install_model` do: a trained model as one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.errors import ModelError, UsageError
from renalplan.imports import load_class
from renalplan.locks import hold_files
from renalplan.model_archive import pack_model, unpack_model
from renalplan.model_folder import WEIGHTS, ModelFolder
from renalplan.predicting import find_models
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.inference.segmenter import Segmenter


def export_model(
    out: str | Path | None = None,
    *,
    model: str | Path | None = None,
    task: str | None = None,
    trainer: str | None = None,
    folds: list[str] | None = None,
    overwrite: bool = False,
    workspace: Workspace | None = None,
) -> Path:
    """Write all that prediction needs of a model into one zip.

    Args:
        out: The zip; `<dataset>__<model>.zip` here if None.
        model: Its folder; else `task` and `trainer`, else the only model of the workspace.
        task: Dataset whose model to take.
        trainer: Model name of that dataset.
        folds: Folds to take along; all finished ones if None.
        overwrite: Replace `out` if it is there.
        workspace: Where models are looked up.

    Raises:
        UsageError: no (single) model, `out` is there, or another run writes it.
        ModelError: the model is incomplete.
    """
    chosen: Sequence[str | Path] | None = None if model is None else [model]
    (found,) = find_models(
        workspace or Workspace.find(),
        models=chosen,
        task=task,
        trainers=None if trainer is None else [trainer],
    )
    folds = found.choose_folds(folds)
    target = Path(out or f"{found.plan.dataset}__{found.path.resolve().name}.zip")
    if target.suffix.lower() != ".zip":
        raise UsageError(f"{target} must end in .zip.")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already; choose another name, or add --overwrite.")

    from renalplan.inference.options import InferenceOptions

    spec = found.record.segmenter
    segmenter = _segmenter_class(found)(found, folds, InferenceOptions(), **spec.arguments)
    with hold_files(target):
        for fold in folds:
            for phase in segmenter.phases:
                found.load_network(phase, fold)  # what cannot be installed is not sent
        return pack_model(found, target, folds, segmenter.phases)


def _require_complete(model: ModelFolder) -> None:
    """Every fold has the weights that its segmenter asks for, of a class that may be loaded."""
    from renalplan.inference.options import InferenceOptions

    folds, arguments = model.finished_folds(), model.record.segmenter.arguments
    segmenter = _segmenter_class(model)(model, folds, InferenceOptions(), **arguments)
    for fold in folds:
        for phase in segmenter.phases:
            path = model.fold_folder(fold) / phase / WEIGHTS
            if not path.is_file():
                raise ModelError(f"{path} is missing; have the model exported again.")


def _segmenter_class(model: ModelFolder) -> type[Segmenter]:
    from renalplan.inference.segmenter import Segmenter

    where = str(model.path / "trainer.json")
    return load_class(model.record.segmenter.factory, Segmenter, where)  # type: ignore[type-abstract]


def install_model(
    archive: str | Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    workspace: Workspace | None = None,
) -> ModelFolder:
    """Check a model's zip and put it into the workspace, where `predict` finds it.

    Args:
        archive: What `export_model` wrote.
        name: Of the model folder; the one it had if None.
        overwrite: Replace a model of that name.
        workspace: Where it goes: `results/<dataset>/<name>`.

    Raises:
        UsageError: there is no such file, or a model of that name is there.
        ModelError: the archive is damaged or is no model of ours.
    """
    results = (workspace or Workspace.find()).root / "results"
    return unpack_model(
        Path(archive), results, name=name, overwrite=overwrite, check=_require_complete
    )
