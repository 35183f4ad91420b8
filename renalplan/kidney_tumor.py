"""Which of a dataset's structures is the kidney and which is the tumor, by their names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import UsageError
from renalplan.labels import LabelScheme

KIDNEY = "kidney"
LESIONS = ("tumor", "tumour", "cyst", "mass", "lesion")


def is_lesion(name: str) -> bool:
    """Whether a structure's name says that it is a lesion."""
    return any(word in name.lower() for word in LESIONS)


@dataclass(frozen=True)
class KidneyTumor:
    """The two structures of a dataset, whatever their order and form.

    Attributes:
        kidney: The kidney's name among the scheme's heads.
        tumor: The tumor's.
        tumor_values: Label values of the tumor.
        values: Label values of kidney and tumor together.
    """

    kidney: str
    tumor: str
    tumor_values: tuple[int, ...]
    values: tuple[int, ...]

    def masks(self, labels: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Kidney and tumor together, and tumor alone, of a label map."""
        return np.isin(labels, self.values), np.isin(labels, self.tumor_values)


def find_kidney_tumor(
    scheme: LabelScheme, kidney: str | None = None, tumor: str | None = None
) -> KidneyTumor:
    """The kidney and the tumor among exactly two structures.

    Args:
        scheme: What the dataset's labels mean; classes, or regions of which the kidney may hold
            the tumor.
        kidney: Name of the kidney; by default the structure that the tumor is not.
        tumor: Name of the tumor; by default the structure with tumor, tumour, cyst, mass or lesion
            in its name.

    Raises:
        UsageError: there are not two structures, or their names do not tell which is which.
    """
    structures = scheme.foreground
    names = list(structures)
    listed = ", ".join(names)
    for asked in (kidney, tumor):
        if asked is not None and asked not in structures:
            raise UsageError(f"the dataset has no structure {asked!r}; it has {listed}.")
    if len(names) != 2:
        raise UsageError(
            f"two structures are needed, kidney and tumor; the dataset has {listed}. Join or leave "
            "out the others in dataset.json and the label maps."
        )
    lesions = [name for name in names if is_lesion(name)]
    if tumor is None and kidney is not None:
        tumor = next(name for name in names if name != kidney)
    elif tumor is None and len(lesions) == 1:
        tumor = lesions[0]
    if tumor is None or tumor == kidney:
        raise UsageError(
            f"which structure is the tumor, {' or '.join(names)}? Say it with --set tumor_label=NAME."
        )
    kidney = next(name for name in names if name != tumor)
    both = sorted({*structures[kidney], *structures[tumor]})
    return KidneyTumor(
        kidney=kidney, tumor=tumor, tumor_values=structures[tumor], values=tuple(both)
    )
