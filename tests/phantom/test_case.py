"""Rendered cases: determinism, volumes, tissue values, labels."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, uniform_filter

from renalplan.errors import UsageError
from renalplan.phantom import PhantomCase, make_case
from renalplan.phantom.anatomy import draw_patient
from renalplan.phantom.painter import STRUCTURES
from renalplan.phantom.render import render_patient
from renalplan.phantom.scanner import Noise, Sampling
from renalplan.phantom.tissue import draw_values

SMALL = (40, 64, 64)


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [make_case(3, index, size=SMALL) for index in range(6)]


@pytest.fixture(scope="module")
def close_up() -> tuple[PhantomCase, dict[str, dict[str, float]]]:
    """One left kidney at 1.2 mm, CTA and CTU, 110 mm around its centre; and its tissue values."""
    patient = draw_patient(11, 0, tumors=False)
    centre = patient.kidneys[0].centre
    shape, step = (108, 88, 88), 1.2
    sampling = Sampling(
        shape=shape,
        spacing=(step, step, step),
        origin=tuple(float(c - (n - 1) / 2 * step) for c, n in zip(centre, shape, strict=True)),
    )
    case = render_patient(
        patient,
        sampling,
        phases=("arterial", "excretory"),
        task="compartments",
        seed=11,
        index=0,
    )
    return case, patient.values


def test_same_seed_gives_the_same_arrays() -> None:
    first, second = (make_case(1, 2, size=(20, 24, 24)) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    for phase, image in first.images.items():
        np.testing.assert_array_equal(image, second.images[phase])


def test_other_seed_or_index_gives_another_patient() -> None:
    base, *others = (make_case(*key, size=(20, 24, 24)) for key in ((1, 2), (2, 2), (1, 3)))
    first = next(iter(base.images.values()))
    for other in others:
        assert (first != next(iter(other.images.values()))).mean() > 0.5


def test_arrays_share_the_grid(cases: list[PhantomCase]) -> None:
    for case in cases:
        assert case.grid.shape == SMALL
        assert case.grid.spacing[::-1] == case.spacing
        assert set(case.structures) == set(STRUCTURES)
        assert all(mask.shape == SMALL for mask in case.structures.values())
        assert all(image.dtype == np.int16 for image in case.images.values())


def test_field_of_view_holds_the_abdomen(cases: list[PhantomCase]) -> None:
    for case in cases:
        deep, wide = (case.spacing[axis] * SMALL[axis] for axis in (1, 2))
        assert case.spacing[0] * SMALL[0] >= 260
        assert 339 <= deep == wide <= 401
        assert not any(case.labels[edge].any() for edge in (0, -1))


def test_spacings_differ_between_patients(cases: list[PhantomCase]) -> None:
    assert len({case.spacing for case in cases}) == len(cases)


def test_kidney_volumes_are_an_adult_s(cases: list[PhantomCase]) -> None:
    volumes = [volume for case in cases for volume in case.truth.kidney_ml.values()]
    assert min(volumes) > 70
    assert max(volumes) < 290
    assert 130 < np.mean(volumes) < 210


def test_cortex_is_about_seventy_percent_of_parenchyma(cases: list[PhantomCase]) -> None:
    for case in cases:
        cortex, medulla = case.truth.cortex_ml, case.truth.medulla_ml
        assert 0.65 < cortex / (cortex + medulla) < 0.76


def test_label_volume_matches_the_covered_volume(cases: list[PhantomCase]) -> None:
    for case in cases:
        voxel_ml = np.prod(case.spacing) / 1000
        tumor = sum(tumor.volume_ml for tumor in case.truth.tumors)
        assert (case.labels == 2).sum() * voxel_ml == pytest.approx(tumor, rel=0.2, abs=1)
        total = (case.labels > 0).sum() * voxel_ml
        assert total == pytest.approx(sum(case.truth.kidney_ml.values()) + tumor, rel=0.1)


def test_tumor_replaces_kidney(cases: list[PhantomCase]) -> None:
    for case in cases:
        kidney = case.structures["kidney_left"] | case.structures["kidney_right"]
        assert (case.labels[kidney] > 0).all()
        assert (case.labels[case.structures["tumor"]] == 2).mean() > 0.98


def test_left_kidney_lies_at_larger_x_in_the_image(cases: list[PhantomCase]) -> None:
    for case in cases:
        if case.truth.kidney_count == 2:
            left, right = (
                np.nonzero(case.structures[f"kidney_{side}"])[2].mean()
                for side in ("left", "right")
            )
            assert left > right + 10


def test_subtraction_separates_cortex_and_medulla(close_up: tuple) -> None:
    case, values = close_up
    difference = case.images["arterial"].astype(float) - case.images["excretory"]
    # halfway between cortex (about +100) and medulla (about -40)
    middle = np.mean(
        [values[t]["arterial"] - values[t]["excretory"] for t in ("cortex", "medulla")]
    )
    inner = case.structures["kidney_left"] & ~_touched(case)
    cortex = case.structures["cortex"] & inner
    medulla = case.structures["medulla"] & inner
    smooth = _mean_of_neighbours(difference)  # takes most of the noise away
    right = (smooth[cortex] > middle).sum() + (smooth[medulla] < middle).sum()
    assert right / (cortex.sum() + medulla.sum()) > 0.95


def test_tissues_measure_what_was_drawn_for_them(close_up: tuple) -> None:
    case, values = close_up
    for name in ("cortex", "medulla"):
        mask = _eroded(case.structures[name] & ~_touched(case))
        for phase, image in case.images.items():
            # noise and texture average out over thousands of voxels; blur mixes in some neighbours
            assert image[mask].mean() == pytest.approx(values[name][phase], abs=12), (name, phase)


def test_compartments_fill_the_kidney(close_up: tuple) -> None:
    case, _ = close_up
    assert set(np.unique(case.labels)) == {0, 1, 2}
    assert ((case.labels > 0) == case.structures["kidney_left"]).mean() > 0.995


def _touched(case: PhantomCase) -> np.ndarray:
    vessels = case.structures["artery"] | case.structures["vein"]
    result: np.ndarray = binary_dilation(
        vessels | case.structures["collecting_system"], iterations=2
    )
    return result


def _eroded(mask: np.ndarray) -> np.ndarray:
    result: np.ndarray = binary_erosion(mask)
    return result


def _mean_of_neighbours(image: np.ndarray) -> np.ndarray:
    result: np.ndarray = uniform_filter(image, 3)
    return result


def test_arteries_stay_connected_where_voxels_are_coarser_than_they() -> None:
    case = make_case(3, 0, task="artery", size=SMALL)
    assert list(case.images) == ["arterial"]
    assert case.labels.sum() > 20
    image = case.images["arterial"]
    assert image[case.labels == 1].mean() > image[case.structures["sinus_fat"]].mean() + 60


def test_healthy_patients_have_no_tumor() -> None:
    case = make_case(3, 0, task="compartments", size=(20, 32, 32))
    assert case.truth.tumors == ()
    assert list(case.images) == ["arterial", "excretory"]


def test_urine_is_bright_in_the_urography() -> None:
    case = make_case(3, 1, task="compartments", size=SMALL)
    pelvis = case.structures["collecting_system"]
    assert case.images["excretory"][pelvis].mean() > case.images["arterial"][pelvis].mean() + 150


def test_tissue_order_in_the_trunk(cases: list[PhantomCase]) -> None:
    for case in cases:
        image = next(iter(case.images.values()))
        assert image[:, 0, 0].mean() < -950  # air beside the body
        assert image.max() > 250  # bone or artery
        assert np.median(image[case.structures["sinus_fat"]]) < 60


def test_noise_has_its_standard_deviation_and_is_correlated() -> None:
    noise = Noise(np.random.default_rng(0), (256, 256), (3.0, 0.8, 0.8))
    slices = noise.slices(6)
    assert slices.std() == pytest.approx(noise.sd_hu, rel=0.05)
    # a ramp filter's power vanishes at frequency 0: slices average to nothing
    assert abs(slices.mean()) < 0.05 * noise.sd_hu
    follows = np.corrcoef(slices[1].ravel(), slices[2].ravel())[0, 1]
    assert 0.2 < follows < 0.45  # 0.95 * 0.31 = 0.3 from the slice before


def test_values_of_a_patient_share_one_factor() -> None:
    values = draw_values(np.random.default_rng(4))
    cortex = (values["cortex"]["arterial"] - values["cortex"]["noncontrast"]) / (225 - 30)
    artery = (values["artery"]["arterial"] - values["artery"]["noncontrast"]) / (320 - 40)
    assert cortex == pytest.approx(artery, rel=0.35)  # own factors differ by 6 % each


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "liver"}, "kidney_tumor, artery, compartments, boxes"),
        ({"size": (8, 64, 64)}, "at least 16 voxels"),
        ({"spacing": (1.0, 0.0, 1.0)}, "above 0 mm"),
    ],
)
def test_impossible_requests_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_case(0, 0, **options)
