from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from SimpleITK import DICOMOrient, ReadImage, WriteImage

from renalplan.errors import DatasetError
from renalplan.evaluation.space import canonical_grid, require_same_space
from renalplan.geometry import Grid
from renalplan.images import read_grid, read_volume, write_file_array

C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = Grid(
    size=(4, 5, 6),
    spacing=(1, 2, 3),
    origin=(7, 8, 9),
    direction=(1, 0, 0, 0, float(C), float(-S), 0, float(S), float(C)),
)


def test_a_canonical_grid_stays_as_it_is() -> None:
    assert not canonical_grid(OBLIQUE).differences(OBLIQUE)


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAL", "PIR", "IRA"])
def test_reoriented_file_lies_in_the_same_space(tmp_path: Path, code: str) -> None:
    values = np.arange(120, dtype=np.uint8).reshape(6, 5, 4)
    paths = tmp_path / "as_is.nrrd", tmp_path / "turned.nrrd"
    write_file_array(paths[0], values, OBLIQUE)
    WriteImage(DICOMOrient(ReadImage(str(paths[0])), code), str(paths[1]))
    grids = [read_grid(path) for path in paths]
    require_same_space(paths[1], grids[1], paths[0], grids[0])
    arrays = [read_volume(path, labels=True).array for path in paths]
    np.testing.assert_array_equal(*arrays)


def test_a_moved_grid_is_refused_with_both_names() -> None:
    moved = Grid(size=(4, 5, 6), spacing=(1, 2, 3), origin=(7, 8, 10), direction=OBLIQUE.direction)
    with pytest.raises(DatasetError, match=r"p\.nii does not lie on the grid of r\.nii: origin"):
        require_same_space(Path("p.nii"), moved, Path("r.nii"), OBLIQUE)
