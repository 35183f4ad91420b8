"""The hierarchical evaluation classes of the KiTS challenges: kidney with masses, masses, tumor.

Whatever the dataset's values are, its structures' names say which are kidney, tumor and other masses.

Sources:
    [KiTS23] neheller/kits23, kits23/configuration/labels.py: kidney_and_mass (1, 2, 3), mass (2, 3),
    tumor (2), and their tolerances. Without cysts the classes are KiTS19's, kidney and tumor.
"""

from __future__ import annotations

from renalplan.errors import UsageError
from renalplan.evaluation.tolerance import KITS_MM
from renalplan.labels import LabelScheme
from renalplan.roles import find_roles

TUMOR = ("tumor", "tumour")
ORGAN, MASS, TUMORS = "kidney_and_mass", "mass", "tumor"
ORGAN_WITHOUT_CYSTS = "kidney_and_tumor"
TOLERANCES_MM = KITS_MM | {ORGAN_WITHOUT_CYSTS: KITS_MM[ORGAN]}


def hierarchical(scheme: LabelScheme) -> dict[str, tuple[int, ...]]:
    """Class -> label values, in the challenge's order.

    Args:
        scheme: The dataset's labels, classes or regions.

    Raises:
        UsageError: no structure is named kidney, or none tumor.
    """
    roles = find_roles(scheme)
    named = [v for n, v in scheme.foreground.items() if any(w in n.lower() for w in TUMOR)]
    # of regions that hold one another the innermost is the tumor itself
    tumor = [v for v in named if not any(set(w) < set(v) for w in named)]
    values = tuple(sorted({value for v in tumor for value in v}))
    if not roles.kidney or not values:
        raise UsageError(
            "--labels kits: needs structures with kidney and tumor in their names; there are "
            f"{', '.join(scheme.foreground)}."
        )
    organ, mass = tuple(sorted(roles.organ)), tuple(sorted(roles.lesion))
    if mass == values:
        return {ORGAN_WITHOUT_CYSTS: organ, TUMORS: values}
    return {ORGAN: organ, MASS: mass, TUMORS: values}
