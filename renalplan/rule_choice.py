"""Which rules of postprocessing help on held-out predictions: what `renalplan_find_best` decides last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from renalplan.errors import RenalplanError
from renalplan.files import Record
from renalplan.held_out import HeldOut
from renalplan.labels import LabelScheme
from renalplan.parallel import CaseExecutor, map_cases
from renalplan.postprocessing import (
    AtMostTwoKidneys,
    LesionsTouchKidney,
    MinimumVolume,
    Rule,
    VesselsReachAorta,
    misfit,
)
from renalplan.progress import counter

VOLUMES_ML = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # the smallest tumors one reports have about 0.1 ml
GAPS_MM = (0.0, 3.0, 10.0)
WORTH = 1e-6  # of mean Dice: less is rounding
Rules = tuple[Rule, ...]
Dice = dict[str, float]  # structure -> mean over cases


def mean_dice(dice: Dice) -> float:
    """Mean over structures of the means over cases: each structure has the same weight."""
    return sum(dice.values()) / len(dice)


class TriedRule(Record):
    """One rule on all held-out predictions.

    Attributes:
        rule: With its parameters.
        mean_dice: With this rule alone.
        worse: Structures whose mean Dice it lowers.
        kept: Whether it is among the rules that were chosen.
    """

    rule: Rule
    mean_dice: float
    worse: tuple[str, ...]
    kept: bool


@dataclass(frozen=True)
class RuleChoice:
    """The rules that help.

    Attributes:
        rules: In the order in which they are applied.
        plain: Structure -> mean Dice without any.
        dice: The same with them.
        tried: All that were tried.
    """

    rules: Rules
    plain: Dice
    dice: Dice
    tried: tuple[TriedRule, ...]


def candidate_rules(scheme: LabelScheme) -> list[Rules]:
    """What to try: alternatives of which at most one is kept, in the order of application."""
    kinds: list[Rules] = [
        (AtMostTwoKidneys(),),
        (LesionsTouchKidney(),),
        tuple(VesselsReachAorta(gap_mm=gap) for gap in GAPS_MM),
        *(
            tuple(MinimumVolume(structure=name, ml=ml) for ml in VOLUMES_ML)
            for name in scheme.foreground
        ),
    ]
    return [kind for kind in kinds if not misfit(kind[0], scheme)]


def choose_rules(
    cases: Sequence[HeldOut],
    scheme: LabelScheme,
    *,
    executor: CaseExecutor,
    progress: bool = True,
) -> RuleChoice:
    """Keep each rule that raises the mean Dice over all cases and lowers that of no structure.

    Every rule is tried alone first; those that help are then added one after the other, each
    only if it helps beside those that are kept. Of alternatives the one that helps most is taken.

    Args:
        cases: Held-out predictions without postprocessing.
        scheme: What the labels mean.
        executor: Who scores.
        progress: Show a progress bar.

    Raises:
        RenalplanError: a file cannot be read, or lies on another grid than its reference.
    """
    kinds = candidate_rules(scheme)
    singles = [rule for kind in kinds for rule in kind]
    plain, *alone = score_rule_sets(
        cases, scheme, [(), *((rule,) for rule in singles)], executor=executor, progress=progress
    )
    scores = dict(zip(singles, alone, strict=True))
    kept: Rules = ()
    dice = plain
    for kind in kinds:
        helpful = [rule for rule in kind if helps(scores[rule], plain)]
        if not helpful:
            continue
        together = (
            score_rule_sets(
                cases, scheme, [(*kept, r) for r in helpful], executor=executor, progress=progress
            )
            if kept
            else [scores[rule] for rule in helpful]
        )
        best = max(range(len(helpful)), key=lambda number: mean_dice(together[number]))
        if helps(together[best], dice):
            kept, dice = (*kept, helpful[best]), together[best]
    tried = tuple(
        TriedRule(
            rule=rule, mean_dice=mean_dice(scores[rule]), worse=worse(scores[rule], plain),
            kept=rule in kept,
        )
        for rule in singles
    )  # fmt: skip
    return RuleChoice(kept, plain, dice, tried)


def helps(new: Dice, old: Dice) -> bool:
    """Whether the mean Dice rises and that of no structure falls."""
    return mean_dice(new) > mean_dice(old) + WORTH and not worse(new, old)


def worse(new: Dice, old: Dice) -> tuple[str, ...]:
    """The structures whose mean Dice falls."""
    return tuple(name for name in old if new[name] < old[name] - 1e-12)


def score_rule_sets(
    cases: Sequence[HeldOut],
    scheme: LabelScheme,
    sets: Sequence[Rules],
    *,
    executor: CaseExecutor,
    progress: bool = True,
) -> list[Dice]:
    """For each set of rules, structure -> mean Dice over the cases.

    Raises:
        RenalplanError: a file cannot be read, or lies on another grid than its reference.
    """
    found: dict[str, list[Dice]] = {}
    with counter(len(cases), "score", progress) as advance:
        for case, result in map_cases(score_case, cases, scheme, sets, executor=executor):
            if isinstance(result, RenalplanError):
                raise result
            found[case.case] = result
            advance()
    ordered = [found[case.case] for case in cases]  # so that sums do not depend on who was first
    return [
        {
            name: sum(dice[number][name] for dice in ordered) / len(ordered)
            for name in scheme.foreground
        }
        for number in range(len(sets))
    ]


def score_case(case: HeldOut, scheme: LabelScheme, sets: Sequence[Rules]) -> list[Dice]:
    """For each set of rules, structure -> Dice of one case.

    Raises:
        DatasetError: a file cannot be read, or the two lie on different grids.
    """
    from renalplan.evaluation.dice import structure_dice
    from renalplan.evaluation.space import require_same_space
    from renalplan.images import read_volume
    from renalplan.inference.postprocessing.apply import apply_rules

    truth = read_volume(case.reference, labels=True)
    found = read_volume(case.prediction, labels=True)
    require_same_space(case.prediction, found.grid, case.reference, truth.grid)
    plain = structure_dice(truth.array[0], found.array[0], truth.spacing, scheme)
    scores = []
    for rules in sets:
        labels, removed = apply_rules(found.array[0], truth.spacing, scheme, rules)
        changed = (
            structure_dice(truth.array[0], labels, truth.spacing, scheme) if removed else plain
        )
        scores.append(changed)
    return scores
