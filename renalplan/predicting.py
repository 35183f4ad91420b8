"""What `renalplan_predict` does: find the model, check the input, run the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.errors import UsageError
from renalplan.model_folder import ModelFolder
from renalplan.progress import counter
from renalplan.workspace import DATASET_NAME, Workspace

if TYPE_CHECKING:
    from renalplan.inference.predictor import PredictionReport


def find_models(
    workspace: Workspace,
    *,
    models: Sequence[str | Path] | None = None,
    task: str | None = None,
    trainers: list[str] | None = None,
) -> list[ModelFolder]:
    """The models to predict with: given folders, a task's trainers, or the only one there is.

    Raises:
        UsageError: none, or several and none chosen; they are listed with the flag to choose.
        ModelError: a given folder is no model.
    """
    if models:
        return [ModelFolder.open(Path(path)) for path in models]
    if task is not None:
        results = workspace.results(_dataset_name(workspace, task))
    else:
        results = workspace.root / "results"
    found = sorted(path.parent for path in results.rglob("trainer.json"))
    if trainers:
        chosen = [path for path in found if path.name in trainers]
        if missing := set(trainers) - {path.name for path in chosen}:
            raise UsageError(
                f"no model {', '.join(sorted(missing))} in {results}; "
                f"there are {', '.join(p.name for p in found) or 'none'}."
            )
        found = sorted(
            chosen, key=lambda path: trainers.index(path.name)
        )  # weights have that order
    if not found:
        raise UsageError(f"no trained model in {results}; train one, or give its folder with -m.")
    if len(found) > 1 and not trainers:
        listing = "\n".join(f"  -m {path}" for path in found)
        raise UsageError(f"{results} holds {len(found)} models; choose with -m:\n{listing}")
    return [ModelFolder.open(path) for path in found]


def predict(
    images: str | Path,
    out: str | Path,
    *,
    models: Sequence[str | Path] | None = None,
    task: str | None = None,
    trainers: list[str] | None = None,
    folds: list[str] | None = None,
    weights: Sequence[float] | None = None,
    device: str = "auto",
    step: float = 0.5,
    tta: bool = False,
    save_probabilities: bool = False,
    postprocessing: bool = True,
    overwrite: bool = False,
    workspace: Workspace | None = None,
    progress: bool = True,
) -> PredictionReport:
    """Segment every scan of a folder with the average of a model's folds (and of several models).

    Args:
        images: Folder of scans (`case_0000.nii.gz`, or plain names for one channel), or one file.
        out: Folder for the segmentations.
        models: Model folders; else `task` and `trainers`, else the only model of the workspace.
        task: Dataset whose models to use.
        trainers: Model names of that dataset.
        folds: Folds to average; all finished ones if None.
        weights: How much each model counts, in their order; all alike if None.
        device: auto, cpu, cuda, cuda:N or mps.
        step: Window distance as a share of the patch.
        tta: Average over mirrored copies.
        save_probabilities: Also write probabilities (float16).
        postprocessing: Apply the models' rules (`postprocessing.json`), if they agree on them.
        overwrite: Predict again what is already there.
        workspace: Where models are looked up.
        progress: Show a progress bar.

    Raises:
        UsageError: nothing to predict, no (single) model, or weights that do not fit the models.
        ModelError: the models do not have the same labels or channels.
    """
    images, out = Path(images), Path(out)
    if images.resolve() == out.resolve() or images.resolve() in out.resolve().parents:
        raise UsageError(f"the output {out} lies inside the input {images}; choose another folder.")
    if not images.exists():
        raise UsageError(f"input {images} does not exist.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"output {out} is not a folder; choose another name.")
    chosen = find_models(workspace or Workspace.find(), models=models, task=task, trainers=trainers)
    for model in chosen:
        model.choose_folds(folds)

    from renalplan.inference.predictor import Predictor, find_scans
    from renalplan.inference.segmenter import InferenceOptions
    from renalplan.inference.weights import member_weights

    counted = member_weights(weights, len(chosen), "models")
    scans = list(find_scans(images, chosen[0].description.channels))
    options = InferenceOptions(device=device, step=step, tta=tta)
    options.torch_device()
    members = [Predictor.from_model(model, folds, options).members[0] for model in chosen]
    predictor = Predictor(
        members, counted, postprocessing=postprocessing
    )  # refuses models that do not go together
    for member in members:
        member.load()
    with counter(len(scans), "predict", progress) as advance:
        return predictor.predict_folder(
            scans,
            out,
            save_probabilities=save_probabilities,
            overwrite=overwrite,
            on_case=lambda *_: advance(),
        )


def _dataset_name(workspace: Workspace, task: str) -> str:
    """The dataset's name; its raw folder need not be there any more."""
    results = workspace.root / "results"
    known = sorted(p.name for p in results.iterdir() if p.is_dir()) if results.is_dir() else []
    if task.isdecimal():
        for name in known:
            match = DATASET_NAME.match(name)
            if match and int(match[1]) == int(task):
                return name
    if task in known:
        return task
    return workspace.dataset_folder(task).resolve().name
