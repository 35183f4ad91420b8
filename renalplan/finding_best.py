"""What `renalplan_find_best` does: compare models (and pairs) on held-out cases, choose, try rules."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from renalplan.dataset import Case, Dataset
from renalplan.errors import UsageError
from renalplan.executors import open_executor
from renalplan.files import Record, remove_leftovers, write_json
from renalplan.held_out import Folds, HeldOut, find_held_out, predict_pairs
from renalplan.locks import hold
from renalplan.model_folder import ModelFolder
from renalplan.postprocessing import POSTPROCESSING, Postprocessing
from renalplan.rule_choice import Dice, TriedRule, choose_rules, mean_dice, score_rule_sets
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.evaluation.compare import Validated

BEST = "best.json"
PAIRS = "pairs"  # results/<dataset>/pairs/A+B/fold_N: segmentations of held-out cases
# models by name, their held-out scores, and why others are left out
Compared = tuple[dict[str, ModelFolder], dict[str, "Validated"], dict[str, str]]
FEW_CASES = 10
log = logging.getLogger(__name__)
TOLERANCE = 1e-6  # of Dice, between a table and the segmentations it is of


class Candidate(Record):
    """A model or a pair, on all held-out cases, without postprocessing.

    Attributes:
        models: Names of the model folders.
        dice: Structure -> mean Dice over cases.
        mean_dice: Mean over structures.
    """

    models: tuple[str, ...]
    dice: dict[str, float]
    mean_dice: float


class Best(Record):
    """best.json.

    Attributes:
        dataset: What the models were trained on.
        folds: Fold -> held-out cases.
        candidates: All that were compared, best first.
        left_out: Model -> why it was not compared.
        chosen: The best candidate's models.
        tried: The rules that were tried on its held-out predictions.
        postprocessing: Those that help, as written into the chosen models.
        dice: Structure -> mean Dice with them.
        mean_dice: Mean over structures.
        command: How to predict with the choice; IMAGES and OUT stand for your folders.
    """

    version: Literal[1] = 1
    dataset: str
    folds: dict[str, tuple[str, ...]]
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    chosen: tuple[str, ...]
    tried: tuple[TriedRule, ...]
    postprocessing: Postprocessing
    dice: dict[str, float]
    mean_dice: float
    command: str


@dataclass(frozen=True)
class FoundBest:
    """The choice, and the files that were written."""

    best: Best
    files: tuple[Path, ...]


def find_best(
    task: str,
    *,
    trainers: list[str] | None = None,
    pairs: bool = False,
    device: str = "auto",
    workers: int | None = None,
    workspace: Workspace | None = None,
    progress: bool = True,
) -> FoundBest:
    """Choose among a dataset's trained models by mean Dice on the cases they held out.

    Writes postprocessing.json into the chosen model folders (replacing what stands there) and
    `results/<dataset>/best.json`.

    Args:
        task: Dataset folder, name or number; its labels are needed.
        trainers: Model names; all of the dataset if None, leaving out what cannot be compared.
        pairs: Compare pairs of models too; their held-out cases are predicted again where their
            probabilities are missing.
        device: Where that is computed.
        workers: Processes that score; None takes one a core, 0 computes here.
        workspace: Where everything is.
        progress: Show progress bars.

    Raises:
        UsageError: no model with scored held-out cases, one asked for that cannot be compared, or
            no two models to pair, or another run that chooses among them.
        RenalplanError: a file is missing or damaged.
    """
    from renalplan.inference.options import choose_device

    choose_device(device)
    workspace = workspace or Workspace.find()
    dataset = Dataset.open(workspace.dataset_folder(task))
    compared = _compared(workspace, dataset.name, trainers)
    results = workspace.results(dataset.name)
    with hold(results, "find_best", f"the best model in {results} is being found"):
        remove_leftovers(results, (BEST,))
        best = _choose(dataset, results, compared, pairs, device, workers, progress=progress)
        paths = [results / name for name in best.chosen]
        return FoundBest(best, _write(best, paths, results / BEST))


def _choose(
    dataset: Dataset,
    results: Path,
    compared: Compared,
    pairs: bool,
    device: str,
    workers: int | None,
    *,
    progress: bool,
) -> Best:
    """What `find_best` decides."""
    models, validated, left_out = compared
    cases = {case.id: case for case in dataset.training_cases}
    folds = next(iter(validated.values())).cases
    _require_references(folds, cases, dataset)
    count = sum(len(held) for held in folds.values())
    predictions: dict[tuple[str, ...], list[HeldOut]] = {
        (name,): find_held_out(models[name].path, folds, cases) for name in models
    }
    scores: dict[tuple[str, ...], Dice] = {(name,): v.dice for name, v in validated.items()}
    if pairs:
        _require_two(list(models))
        made = predict_pairs(
            list(models.values()), folds, dataset, results / PAIRS, device=device, progress=progress
        )
        predictions |= made
    with open_executor(workers, cases=count) as executor:
        scoring: Any = {"executor": executor, "progress": progress}
        for names in [n for n in predictions if n not in scores]:
            scheme = models[names[0]].scheme
            scores[names] = score_rule_sets(predictions[names], scheme, [()], **scoring)[0]
        # of equal ones a model rather than a pair, and the first
        chosen = max(scores, key=lambda n: (round(mean_dice(scores[n]) / TOLERANCE), -len(n)))
        choice = choose_rules(predictions[chosen], models[chosen[0]].scheme, **scoring)
    _require_own_tables(chosen, scores[chosen], choice.plain)
    if count < FEW_CASES:
        log.warning(
            "the choice, and every rule, rests on %d held-out case%s of %d fold%s, so it may be chance; "
            "train the other folds too (renalplan_train %s cv).",
            count, "s" * (count > 1), len(folds), "s" * (len(folds) > 1), dataset.name,
        )  # fmt: skip
    candidates = [
        Candidate(models=names, dice=dice, mean_dice=mean_dice(dice))
        for names, dice in scores.items()
    ]
    paths = [models[name].path for name in chosen]
    return Best(
        dataset=dataset.name,
        folds={str(fold): held for fold, held in folds.items()},
        candidates=tuple(sorted(candidates, key=lambda candidate: -candidate.mean_dice)),
        left_out=left_out,
        chosen=chosen,
        tried=choice.tried,
        postprocessing=Postprocessing(rules=choice.rules),
        dice=choice.dice,
        mean_dice=mean_dice(choice.dice),
        command=shlex.join(
            ["renalplan_predict", "-i", "IMAGES", "-o", "OUT", "-m", *map(str, paths)]
        ),
    )


def _write(best: Best, models: list[Path], path: Path) -> tuple[Path, ...]:
    """Write the rules into the chosen models, then the choice; returns the files."""
    rules = tuple(model / POSTPROCESSING for model in models)
    for file in rules:
        remove_leftovers(file.parent, (POSTPROCESSING,))
        write_json(file, best.postprocessing)
    write_json(path, best)
    return *rules, path


def _compared(workspace: Workspace, dataset: str, trainers: list[str] | None) -> Compared:
    """The models that can be compared with each other, by name, and why others cannot."""
    from renalplan.evaluation.compare import comparable, read_validated

    results = workspace.results(dataset)
    names = trainers or sorted(path.parent.name for path in results.glob("*/trainer.json"))
    if not names:
        raise UsageError(f"no trained model in {results}; train some with renalplan_train.")
    if len(set(names)) < len(names):
        raise UsageError(f"-tr {' '.join(names)}: name each model once.")
    if missing := [name for name in names if not (results / name / "trainer.json").is_file()]:
        there = ", ".join(sorted(p.parent.name for p in results.glob("*/trainer.json"))) or "none"
        raise UsageError(f"no model {', '.join(missing)} in {results}; there are {there}.")
    models, validated, left_out = {}, [], {}
    for name in names:
        try:
            model = ModelFolder.open(results / name)
            folds = [int(fold) for fold in model.finished_folds() if fold.isdigit()]
            folders = {fold: model.fold_folder(fold) / "validation" for fold in folds}
            validated.append(read_validated(name, folders))
            models[name] = model
        except UsageError as problem:
            if trainers:
                raise
            left_out[name] = str(problem)
    if not validated:
        raise UsageError(next(iter(left_out.values())))
    alike, others = comparable(validated)
    first = models[alike[0].name]
    for found in alike[1:]:
        if models[found.name].scheme != first.scheme:
            others[found.name] = (
                f"{found.name} and {first.path.name} have different labels; only models of the same "
                "labels can be compared."
            )
    if others and trainers:
        raise UsageError(next(iter(others.values())))
    kept = {found.name: found for found in alike if found.name not in others}
    return {name: models[name] for name in kept}, kept, left_out | others


def _require_two(names: list[str]) -> None:
    if len(names) < 2:
        raise UsageError(f"--pairs needs two models to compare; there is only {names[0]}.")


def _require_references(folds: Folds, cases: dict[str, Case], dataset: Dataset) -> None:
    held_out = [case for fold in folds.values() for case in fold]
    lacking = [c for c in held_out if c not in cases or cases[c].label is None]
    if lacking:
        raise UsageError(
            f"{dataset.folder} has no labels of {lacking[0]}, which the models held out; "
            "give the dataset they were trained on."
        )


def _require_own_tables(chosen: Sequence[str], table: Dice, now: Dice) -> None:
    """Rules are chosen on the segmentations, models by their tables: these must be of those."""
    if table.keys() != now.keys():
        raise UsageError(
            f"{' + '.join(chosen)}: the tables in fold_*/validation are of {', '.join(table)}, the "
            f"model's structures are {', '.join(now)}; run renalplan_train for its folds again: it "
            "validates anew."
        )
    for name, dice in table.items():
        if abs(dice - now[name]) > TOLERANCE:
            raise UsageError(
                f"{' + '.join(chosen)}: the segmentations in fold_*/validation have a mean Dice of "
                f"{now[name]:.4f} for {name}, their tables say {dice:.4f}; run renalplan_train for "
                "its folds again: it validates anew."
            )
