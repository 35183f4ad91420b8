"""Models side by side on the cases that each of them held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from renalplan.errors import UsageError
from renalplan.evaluation.columns import MISSING
from renalplan.evaluation.tables import PER_CASE, read_table

Dice = dict[str, float]  # structure -> mean over all held-out cases


@dataclass(frozen=True, kw_only=True)
class Validated:
    """A model's cross-validation.

    Attributes:
        name: Of the model.
        cases: Fold -> its held-out cases, sorted.
        dice: Structure -> mean Dice over the cases of all folds.
    """

    name: str
    cases: dict[int, tuple[str, ...]]
    dice: Dice

    def extent(self) -> str:
        """Its folds and how many cases, in words."""
        folds = ", ".join(str(fold) for fold in sorted(self.cases))
        count = sum(len(cases) for cases in self.cases.values())
        many = "folds" if len(self.cases) > 1 else "fold"
        return f"{many} {folds} ({count} case{'s' if count != 1 else ''})"


def read_validated(name: str, folders: dict[int, Path]) -> Validated:
    """Read the tables of a model's folds.

    Args:
        name: Of the model.
        folders: Fold -> folder with its per_case.csv.

    Raises:
        UsageError: no fold has been scored, a case is without prediction, or in two folds.
        DatasetError: a table is damaged.
    """
    scored = {fold: folder for fold, folder in folders.items() if (folder / PER_CASE).is_file()}
    if not scored:
        raise UsageError(
            f"{name} has no scored held-out cases (fold_*/validation/{PER_CASE}); "
            "train folds of it with renalplan_train."
        )
    cases: dict[int, tuple[str, ...]] = {}
    found: dict[str, list[float]] = {}
    owner: dict[str, int] = {}
    for fold in sorted(scored):
        table = read_table(scored[fold] / PER_CASE)
        if (table["note"] == MISSING).any():
            case = table.loc[table["note"] == MISSING, "case"].iloc[0]
            raise UsageError(f"{scored[fold] / PER_CASE}: {case} was not predicted; do that first.")
        cases[fold] = tuple(sorted(str(case) for case in table["case"].unique()))
        for case in cases[fold]:
            if case in owner:
                raise UsageError(
                    f"{name}: {case} is held out in folds {owner[case]} and {fold}; delete the "
                    "fold that is of another split."
                )
            owner[case] = fold
        for structure, dice in zip(table["structure"], table["dice"], strict=True):
            found.setdefault(str(structure), []).append(float(dice))
    means = {structure: sum(values) / len(values) for structure, values in found.items()}
    return Validated(name=name, cases=cases, dice=means)


def comparable(models: list[Validated]) -> tuple[list[Validated], dict[str, str]]:
    """Models validated on the same folds and cases, and for the same structures, as the most validated.

    Returns:
        Those, in order, and for each other model a sentence why it is none of them.
    """
    measure = max(models, key=lambda m: sum(len(cases) for cases in m.cases.values()))
    alike, others = [], {}
    for model in models:
        if model.cases != measure.cases:
            same = model.extent() == measure.extent()
            others[model.name] = (
                f"{model.name} was validated on {model.extent()}, {measure.name} on "
                f"{'other cases of as many' if same else measure.extent()}; train {model.name} on "
                "the same folds to compare them."
            )
        elif model.dice.keys() != measure.dice.keys():
            others[model.name] = (
                f"{model.name} was scored for {', '.join(model.dice)}, {measure.name} for "
                f"{', '.join(measure.dice)}; only models of the same labels can be compared."
            )
        else:
            alike.append(model)
    return alike, others
