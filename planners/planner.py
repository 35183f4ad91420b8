"""Fingerprint and wishes -> Plan: the public entry of this folder."""

from __future__ import annotations

from difflib import get_close_matches

from renalplan.errors import PlanError, UsageError
from renalplan.plan import Plan
from renalplan.planners.bisc import plan_bisc
from renalplan.planners.coarse_to_fine import plan_coarse_to_fine
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.nnunet import PRESETS, plan_nnunet
from renalplan.planners.options import PlanOptions
from renalplan.planners.renal import plan_renal

__all__ = ["PLANNERS", "PlanOptions", "make_plan"]

PLANNERS = ("renal", *PRESETS, "bisc", "coarse_to_fine")


def make_plan(
    fingerprint: Fingerprint, options: PlanOptions, training_cases: int | None = None
) -> Plan:
    """Decide everything preprocessing, training and inference need, with reasons. Closed form.

    Args:
        fingerprint: The dataset, measured.
        options: What the user asks for.
        training_cases: dataset.json's numTraining; the fingerprint's case count if None.

    Raises:
        UsageError: there is no planner of this name.
        PlanError: the data or the wishes allow no plan; the sentence says what to change.
    """
    if options.planner not in PLANNERS:
        near = get_close_matches(options.planner, PLANNERS, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(
            f"no planner called {options.planner!r}.{hint} There are {', '.join(PLANNERS)}."
        )
    if not any(case.components for case in fingerprint.cases):
        raise PlanError(f"{fingerprint.dataset}: no training case has any foreground.")
    cases = len(fingerprint.cases) if training_cases is None else training_cases
    if options.planner == "renal":
        return plan_renal(fingerprint, options, cases)
    if options.planner == "bisc":
        return plan_bisc(fingerprint, options)
    if options.planner == "coarse_to_fine":
        return plan_coarse_to_fine(fingerprint, options, cases)
    return plan_nnunet(fingerprint, options, cases)
