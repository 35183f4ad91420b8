"""The viewer's small scan lies where the scan does; the still picture shows what is in front."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial.transform import Rotation

from renalplan.evaluation.report import small_scan
from renalplan.evaluation.report.look import looks_of
from renalplan.evaluation.report.small_scan import SmallScan, shrink
from renalplan.evaluation.report.still import BACK, FRONT, Body, draw
from renalplan.evaluation.surgery.frame import Frame
from renalplan.images import Volume, read_volume

TURN = Rotation.from_euler("xyz", (15, -25, 40), degrees=True)
CENTRE = (8.0, -12.0, 20.0)
WINDOW = (-160.0, 240.0)


def read(data: bytes, folder: Path, *, labels: bool) -> Volume:
    path = folder / "small.nii.gz"
    path.write_bytes(data)
    return read_volume(path, labels=labels)


def middle(mask: np.ndarray, volume: Volume) -> np.ndarray:
    index = np.array(ndimage.center_of_mass(mask))
    return np.array(volume.grid.origin) + index[::-1] * volume.grid.spacing


@pytest.mark.parametrize("turned", [None, TURN], ids=["straight", "oblique"])
def test_a_body_is_where_it_was(shapes: SimpleNamespace, tmp_path: Path, turned) -> None:  # type: ignore[no-untyped-def]
    grid = shapes.grid_of((-50, -60, -40), (60, 40, 80), (3.0, 0.9, 0.9), turned)
    mask = shapes.ball(CENTRE, (12, 9, 15))(shapes.points_of(grid))
    image = np.where(mask, 200, -100).astype(np.float32)
    labels, image = shapes.canonical(mask, grid), shapes.canonical(image, grid)
    small = shrink(image, labels.astype(np.uint8), labels, Frame.of(grid), WINDOW)
    seen = read(small.image, tmp_path, labels=False)
    assert seen.grid.direction == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert seen.grid.spacing == pytest.approx((small.spacing_mm,) * 3)
    assert middle(seen.array[0] > 50, seen) == pytest.approx(CENTRE, abs=0.5)
    named = read(small.labels, tmp_path, labels=True)
    assert middle(named.array[0] == 1, named) == pytest.approx(CENTRE, abs=0.5)
    volume = np.count_nonzero(named.array) * small.spacing_mm**3
    assert volume == pytest.approx(4 / 3 * np.pi * 12 * 9 * 15, rel=0.05)
    bright = seen.array[0][named.array[0] == 1]
    assert np.median(bright) == pytest.approx(200, abs=3)  # HU, to a grey's step


def small_noise(spacing: float = 1.0) -> SmallScan:
    noise = np.random.default_rng(0).normal(0, 100, (60, 60, 60)).astype(np.float32)
    centre = np.ones(noise.shape, bool)
    frame = Frame.plain((spacing,) * 3)
    return shrink(noise, centre.astype(np.uint8), centre, frame, WINDOW)


def test_it_never_has_more_bytes_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    free = small_noise()
    assert free.spacing_mm == 1.0
    monkeypatch.setattr(small_scan, "MOST_BYTES", len(free.image) // 3)
    assert len(small_noise().image) <= len(free.image) // 3
    assert small_noise().spacing_mm > 1.2


def test_it_has_about_as_many_voxels_as_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(small_scan, "MOST_VOXELS", 20_000)
    seen = read(small_noise().image, tmp_path, labels=False)
    assert seen.array.size == pytest.approx(20_000, rel=0.1)


def test_intensities_of_any_scale_keep_their_steps(tmp_path: Path) -> None:
    image = np.linspace(0, 1, 8000, dtype=np.float32).reshape(20, 20, 20)  # no HU
    centre = np.ones(image.shape, bool)
    frame = Frame.plain((1, 1, 1))
    small = shrink(image, centre.astype(np.uint8), centre, frame, (0.0, 1.0))
    seen = read(small.image, tmp_path, labels=False)
    assert np.abs(seen.array[0] - image).max() < 0.005


def test_the_still_shows_sides_and_what_is_in_front() -> None:
    """Red at the patient's right and in front of a larger blue ball; LPS: x to the left, y to the back."""
    red = trimesh.creation.icosphere(subdivisions=3, radius=5)
    red.apply_translation((-15, -30, 0))
    blue = trimesh.creation.icosphere(subdivisions=3, radius=20)
    bodies = [Body(red, (255, 0, 0), 1.0), Body(blue, (0, 0, 255), 1.0)]

    def where(view) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
        picture = draw(bodies, view, (80, 120), (0, 0, 0)).astype(int)
        assert picture.shape == (80, 120, 3)
        assert (picture[0, 0] == 0).all()
        return picture[..., 0] > picture[..., 2] + 40, picture[..., 2] > picture[..., 0] + 40

    front, blue_front = where(FRONT)
    assert np.nonzero(front)[1].mean() < np.nonzero(blue_front)[1].mean() - 15  # on the left
    back, blue_back = where(BACK)
    assert front.sum() > 100
    assert not back.any()  # behind the blue one
    # without gaps: the ball's disc is full
    assert blue_back.sum() == pytest.approx(np.pi / 4 * (80 * 0.92) ** 2, rel=0.05)


def test_one_sees_into_what_is_translucent() -> None:
    inner = trimesh.creation.icosphere(subdivisions=2, radius=5)
    outer = trimesh.creation.icosphere(subdivisions=2, radius=20)
    clear = [Body(outer, (0, 0, 255), 0.3), Body(inner, (255, 0, 0), 1.0)]
    solid = [Body(outer, (0, 0, 255), 1.0), Body(inner, (255, 0, 0), 1.0)]
    assert draw(clear, FRONT, (60, 60), (0, 0, 0))[30, 30, 0] > 100
    assert draw(solid, FRONT, (60, 60), (0, 0, 0))[30, 30, 0] == 0


def test_looks_tell_artery_from_vein_and_tumor_from_cyst() -> None:
    names = ("kidney_left", "tumor", "cyst", "Renal Artery", "renal_vein", "bladder", "spleen")
    looks = looks_of(names)
    assert len({look.colour for look in looks.values()}) == len(names)
    assert looks["kidney_left"].opacity < 1
    assert looks["tumor"].opacity == looks["bladder"].opacity == 1
