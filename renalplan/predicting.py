"""What `renalplan_predict` does: find the model, check the input, run the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from renalplan.case_progress import CaseProgress
from renalplan.errors import UsageError
from renalplan.executors import open_executor
from renalplan.model_folder import ModelFolder
from renalplan.parallel import CaseExecutor
from renalplan.workspace import DATASET_NAME, Workspace

if TYPE_CHECKING:
    from renalplan.inference.report import Part, PredictionReport


def find_models(
    workspace: Workspace,
    *,
    models: Sequence[str | Path] | None = None,
    task: str | None = None,
    trainers: list[str] | None = None,
) -> list[ModelFolder]:
    """The models to predict with: given folders, a task's trainers, or the only one there is.

    Raises:
        UsageError: none, one given twice, or several and none chosen; they are listed with the flag
            to choose.
        ModelError: a given folder is no model.
    """
    from renalplan.inference.weights import require_once

    if models:
        require_once(models)
        return [ModelFolder.open(Path(path)) for path in models]
    require_once(trainers or [])
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


class How(TypedDict, total=False):
    """How networks are run: keyword arguments of `InferenceOptions`, which explains them."""

    device: str
    engine: str
    precision: str
    batch: int
    step: float
    tta: bool
    uncertainty: bool
    max_ram: int | None
    max_vram: int | None


def predict(
    images: str | Path,
    out: str | Path,
    *,
    models: Sequence[str | Path] | None = None,
    task: str | None = None,
    trainers: list[str] | None = None,
    folds: list[str] | None = None,
    weights: Sequence[float] | None = None,
    save_probabilities: bool = False,
    postprocessing: bool = True,
    overwrite: bool = False,
    workers: int | None = None,
    parts: int = 1,
    part: int | None = None,
    dask: str | None = None,
    workspace: Workspace | None = None,
    progress: bool = True,
    **how: Unpack[How],
) -> PredictionReport:
    """Segment every scan of a folder with the average of a model's folds (and of several models).

    Args:
        images: Folder of scans, named as for training, or of DICOM series; or one file.
        out: Folder for the segmentations.
        models: Model folders; else `task` and `trainers`, else the only model of the workspace.
        task: Dataset whose models to use.
        trainers: Model names of that dataset.
        folds: Folds to average; all finished ones if None.
        weights: How much each model counts, in their order; all alike if None.
        save_probabilities: Also write probabilities (float16).
        postprocessing: Apply the models' rules (`postprocessing.json`), if they agree on them.
        overwrite: Predict again what is already there.
        workers: Processes that read the next cases while one is computed; 0 does everything in
            this process; None takes 1 where there is a core for it, and 0 with `max_ram`.
        parts: Into how many parts the cases are divided, for as many machines.
        part: Which of them to predict, from 0; needed if there are several.
        dask: Address of a dask scheduler whose workers predict; they must see the same files.
        workspace: Where models are looked up.
        progress: Show a progress bar.
        how: How the networks are run; see `InferenceOptions`.

    Raises:
        UsageError: nothing to predict, no (single) model, or weights that do not fit the models.
        ModelError: the models do not have the same labels or channels.
    """
    images, out, share = _checked(Path(images), Path(out), parts, part)
    reading = _workers(workers, how.get("max_ram"))
    chosen = find_models(workspace or Workspace.find(), models=models, task=task, trainers=trainers)
    for model in chosen:
        _look_at(model, folds, uncertainty=how.get("uncertainty", False))

    from renalplan.inference.options import InferenceOptions
    from renalplan.inference.predictor import Predictor
    from renalplan.inference.scans import find_scans
    from renalplan.inference.weights import member_weights

    counted = member_weights(weights, len(chosen), "models")
    scans = list(find_scans(images, chosen[0].description.channels))
    shown = CaseProgress(len(share.of(scans)), show=progress)
    options = InferenceOptions(**how, scratch_folder=out, progress=shown.on_window)
    if dask is None:
        options.check()
    members = [Predictor.from_model(model, folds, options).members[0] for model in chosen]
    predictor = Predictor(members, counted, postprocessing=postprocessing)
    for member in members if dask is None else []:  # workers load them, on their devices
        member.load()
    with shown, _elsewhere(dask, workers, chosen, scans[0].images, out) as executor:
        return predictor.predict_folder(
            scans,
            out,
            save_probabilities=save_probabilities,
            overwrite=overwrite,
            on_case=shown.on_case,
            workers=reading,
            parts=share.count,
            part=share.index,
            executor=executor,
        )


def _look_at(model: ModelFolder, folds: list[str] | None, *, uncertainty: bool) -> None:
    """Refuse what of a model's folds cannot be used, before any case is begun."""
    used = model.choose_folds(folds)
    if uncertainty:
        model.presence(used)


@contextmanager
def _elsewhere(
    dask: str | None,
    workers: int | None,
    models: list[ModelFolder],
    images: tuple[Path, ...],
    out: Path,
) -> Iterator[CaseExecutor | None]:
    """The cluster that predicts, if it sees models, scans and `out`; None is this process."""
    if dask is None:
        yield None
        return
    seen = (*(model.path / "trainer.json" for model in models), *images)
    with open_executor(workers, dask, reads=seen, writes=out) as executor:
        yield executor


def _checked(images: Path, out: Path, parts: int, part: int | None) -> tuple[Path, Path, Part]:
    """Refuse paths and numbers that cannot work, before anything is opened."""
    from renalplan.inference.report import Part, hold_output
    from renalplan.inference.scans import require_apart

    require_apart(images, out)
    if not images.exists():
        raise UsageError(f"input {images} does not exist.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"output {out} is not a folder; choose another name.")
    if parts == 1 and part is not None:
        raise UsageError(f"--part {part} needs --parts: into how many parts the cases are divided.")
    if parts > 1 and part is None:
        raise UsageError(f"--parts {parts} needs --part, which one to predict: 0 to {parts - 1}.")
    share = Part(index=part or 0, count=parts)
    if out.exists():  # somebody else may be filling it
        with hold_output(out, share):
            return images, out, share
    return images, out, share


def _workers(workers: int | None, max_ram: int | None) -> int | None:
    """How many processes read ahead: none where memory is counted."""
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers} is not possible; 0 computes in this process alone.")
    if max_ram is None:
        return workers
    if workers:
        raise UsageError("--max_ram cannot be kept while others read ahead; leave --workers out.")
    return 0


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
