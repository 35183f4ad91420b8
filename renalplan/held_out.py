"""Segmentations of held-out cases: those that validation left, and those of pairs, made here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from renalplan.dataset import Case, Dataset
from renalplan.errors import PredictionError, UsageError
from renalplan.model_folder import ModelFolder
from renalplan.progress import counter

log = logging.getLogger(__name__)
PROBABILITIES = "probabilities"  # fold_N/probabilities in a model folder
Folds = dict[int, tuple[str, ...]]  # fold -> its held-out cases


@dataclass(frozen=True)
class HeldOut:
    """A case's prediction by models that have not seen it, and its reference."""

    case: str
    prediction: Path
    reference: Path


def find_held_out(
    parent: Path, folds: Folds, cases: dict[str, Case], inner: str = "validation"
) -> list[HeldOut]:
    """The segmentations in `parent/fold_N/inner`.

    Args:
        parent: A model folder, or a pair's.
        folds: Which cases each fold holds out.
        cases: By id, with labels.
        inner: Folder in a fold's.

    Raises:
        UsageError: one is missing.
    """
    from renalplan.evaluation.cases import find_label_maps

    found = []
    for fold, names in folds.items():
        folder = parent / f"fold_{fold}" / inner
        maps = find_label_maps(folder)
        for name in names:
            reference = cases[name].label
            if name not in maps or reference is None:
                raise UsageError(
                    f"{folder} has no segmentation of {name}, which its table scores; run "
                    "renalplan_train for that fold again: it validates anew."
                )
            found.append(HeldOut(name, maps[name], reference))
    return found


def predict_pairs(
    models: list[ModelFolder],
    folds: Folds,
    dataset: Dataset,
    out: Path,
    *,
    device: str = "auto",
    progress: bool = True,
) -> dict[tuple[str, ...], list[HeldOut]]:
    """Segmentations of the held-out cases by each pair of models that share their channels.

    Each model predicts its held-out cases again where their probabilities are not in
    `fold_N/probabilities` yet; what is there is kept.

    Args:
        models: Of the same labels.
        folds: Which cases each fold holds out, in every model.
        dataset: Images and labels of the cases.
        out: The pairs' folder; a pair's segmentations go into `A+B/fold_N`.
        device: Where it is computed.
        progress: Show progress bars.

    Returns:
        Names of a pair's models -> its segmentations.

    Raises:
        PredictionError: a case cannot be predicted.
    """
    from renalplan.inference.ensembling import ensemble_folders

    cases = {case.id: case for case in dataset.training_cases}
    found: dict[tuple[str, ...], list[HeldOut]] = {}
    for one, two in combinations(models, 2):
        names = (one.path.name, two.path.name)
        if one.description.channels != two.description.channels:
            log.info("%s + %s are no pair: they have different channels", *names)
            continue
        parent = out / "+".join(names)
        for fold, held_out in folds.items():
            members = [
                _save_probabilities(
                    model, fold, [cases[c] for c in held_out], dataset, device, progress
                )
                for model in (one, two)
            ]
            report = ensemble_folders(members, parent / f"fold_{fold}", postprocessing=False)
            _require_all(report.failed)
        found[names] = find_held_out(parent, folds, cases, inner="")
    return found


def _save_probabilities(
    model: ModelFolder, fold: int, cases: list[Case], dataset: Dataset, device: str, progress: bool
) -> Path:
    """Predict a fold's held-out cases with their probabilities, where these are missing."""
    from renalplan.inference.options import InferenceOptions
    from renalplan.inference.predictor import Predictor
    from renalplan.inference.scans import ScanFiles

    out = model.fold_folder(fold) / PROBABILITIES
    options = InferenceOptions(device=device)
    predictor = Predictor.from_model(model, [str(fold)], options, postprocessing=False)
    scans = [ScanFiles.of_case(case.id, _images_for(model, case, dataset)) for case in cases]
    with counter(len(scans), f"{model.path.name}, fold {fold}", progress) as advance:

        def on_case(case: str, state: str) -> None:
            if state != "started":  # a case that has begun is not one more
                advance()

        predict = partial(
            predictor.predict_folder, scans, out, save_probabilities=True, on_case=on_case
        )
        try:
            report = predict()
        except UsageError:  # what is there is of weights that have been trained further since
            report = predict(overwrite=True)
    _require_all(report.failed)
    return out


def _images_for(model: ModelFolder, case: Case, dataset: Dataset) -> tuple[Path, ...]:
    """The channels of a case that a model sees, by their names."""
    known, wanted = dataset.description.channels, model.description.channels
    if known == wanted:
        return case.images
    if lacking := [name for name in wanted if name not in known]:
        raise UsageError(f"{dataset.folder} has no channel {lacking[0]}, which {model.path} needs.")
    return tuple(case.images[known.index(name)] for name in wanted)


def _require_all(failed: dict[str, str]) -> None:
    for case, reason in failed.items():
        raise PredictionError(f"{case} could not be predicted: {reason}")
