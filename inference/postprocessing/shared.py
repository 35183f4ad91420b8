"""The rules that models agree on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from renalplan.model_folder import ModelFolder
from renalplan.postprocessing import POSTPROCESSING, Rule

log = logging.getLogger(__name__)


def shared_rules(models: Sequence[ModelFolder]) -> tuple[Rule, ...]:
    """The rules of all models; none if they differ, since rules are chosen for what they were tried on."""
    return agreed(
        [model.postprocessing.rules if model.postprocessing else () for model in models],
        [str(model.path) for model in models],
    )


def agreed(rules: Sequence[tuple[Rule, ...]], sources: Sequence[str]) -> tuple[Rule, ...]:
    """The rules if all are equal; if not, none, and the log says so.

    Args:
        rules: Of each source.
        sources: What to call them.
    """
    for other, source in zip(rules[1:], sources[1:], strict=True):
        if other != rules[0]:
            log.warning(
                "%s and %s have different rules (%s), so none is applied",
                sources[0], source, POSTPROCESSING,
            )  # fmt: skip
            return ()
    return rules[0]
