"""Bayes' rule voxel by voxel, what two contrast phases say about a kidney, and where a kidney is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.geometry import Spacing
from renalplan.trainers.bayes import (
    UNKNOWN,
    Compartments,
    correct_pseudo_labels,
    kidney_of,
    prior_classes,
)

SHAPE = (3, 4, 5)


def _likelihood(seed: int, classes: int = 3, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    found = np.random.default_rng(seed).dirichlet(np.ones(classes), shape)
    return np.moveaxis(found, -1, 0)


def _prior(seed: int, classes: int = 3) -> NDArray[np.int8]:
    """Every class and no opinion, all of them somewhere."""
    return np.random.default_rng(seed).integers(UNKNOWN, classes, SHAPE).astype(np.int8)


# --- equation 2


@pytest.mark.parametrize("omega", [0.0, 0.01, 0.05, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_equation_2_voxel_by_voxel(seed: int, omega: float) -> None:
    likelihood, prior = _likelihood(seed), _prior(seed + 5)
    found = correct_pseudo_labels(likelihood, prior, omega)
    p_correct = 1 / 3 + omega
    p_wrong = (1 - p_correct) / 2
    for voxel in np.ndindex(SHAPE):
        products = []
        for k in range(3):
            p = 1 / 3 if prior[voxel] == UNKNOWN else p_correct if prior[voxel] == k else p_wrong
            products.append(p * likelihood[(k, *voxel)])
        np.testing.assert_allclose(found[(slice(None), *voxel)], np.divide(products, sum(products)))


@pytest.mark.parametrize("seed", range(3))
def test_the_printed_form_takes_the_wrong_classes_together(seed: int) -> None:
    likelihood, prior = _likelihood(seed), _prior(seed)
    found = correct_pseudo_labels(likelihood, prior, 0.05)
    p_correct = 1 / 3 + 0.05
    p_wrong = (1 - p_correct) / 2
    for voxel in np.argwhere(prior != UNKNOWN):
        chosen = prior[tuple(voxel)]
        l_correct = likelihood[(chosen, *voxel)]
        l_wrong = sum(likelihood[(k, *voxel)] for k in range(3) if k != chosen)
        total = p_correct * l_correct + p_wrong * l_wrong
        posterior = found[(slice(None), *voxel)]
        assert posterior[chosen] == pytest.approx(p_correct * l_correct / total)
        assert posterior.sum() - posterior[chosen] == pytest.approx(p_wrong * l_wrong / total)


def test_a_close_call_is_decided_by_the_prior_and_a_clear_one_is_not() -> None:
    likelihood = np.zeros((3, 1, 1, 2))
    likelihood[:, 0, 0, 0] = 0.1, 0.46, 0.44
    likelihood[:, 0, 0, 1] = 0.1, 0.80, 0.10
    found = correct_pseudo_labels(likelihood, np.full((1, 1, 2), 2), 0.05)
    assert found.argmax(0).ravel().tolist() == [2, 1]


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_posteriors_are_probabilities(classes: int, share: float) -> None:
    omega = share * (1 - 1 / classes)
    found = correct_pseudo_labels(_likelihood(0, classes), _prior(1, classes), omega)
    assert found.shape == (classes, *SHAPE)
    np.testing.assert_allclose(found.sum(0), 1)
    assert found.min() >= 0


def test_omega_0_trusts_the_network_alone() -> None:
    likelihood = _likelihood(0)
    np.testing.assert_allclose(correct_pseudo_labels(likelihood, _prior(0), 0), likelihood)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_largest_omega_trusts_the_prior_alone(classes: int) -> None:
    likelihood, prior = _likelihood(0, classes), _prior(0, classes)
    likelihood[:, 0] = 0  # also where the network is sure of another class
    prior[0] = np.arange(20).reshape(4, 5) % classes
    for y, x in np.ndindex(4, 5):
        likelihood[(prior[0, y, x] + 1) % classes, 0, y, x] = 1
    found = correct_pseudo_labels(likelihood, prior, 1 - 1 / classes)
    known = prior != UNKNOWN
    assert known.any()
    assert not known.all()
    expected = np.arange(classes).reshape(-1, 1, 1, 1) == prior
    np.testing.assert_allclose(found[:, known], expected[:, known], atol=1e-12)
    np.testing.assert_allclose(found[:, ~known], likelihood[:, ~known])


@pytest.mark.parametrize("omega", [0.0, 0.05, 2 / 3])
def test_without_an_opinion_the_likelihood_stays(omega: float) -> None:
    likelihood = _likelihood(0)
    found = correct_pseudo_labels(likelihood, np.full(SHAPE, UNKNOWN), omega)
    np.testing.assert_allclose(found, likelihood)


@pytest.mark.parametrize("omega", [-1e-3, 0.667, 1.0])
def test_omega_out_of_range_is_refused(omega: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 0\.6667 for 3 classes, it is"):
        correct_pseudo_labels(_likelihood(0), _prior(0), omega)


def test_the_largest_omega_follows_the_number_of_classes() -> None:
    correct_pseudo_labels(_likelihood(0, 4), _prior(0), 0.75)
    with pytest.raises(ValueError, match=r"between 0 and 0\.5 for 2 classes"):
        correct_pseudo_labels(_likelihood(0, 2), _prior(0, 2), 0.6)


def test_a_prior_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\) for likelihoods of \(3, 3, 4, 5\)"):
        correct_pseudo_labels(_likelihood(0), np.zeros((3, 4, 4), np.int8))


@pytest.mark.parametrize("value", [-2, 3])
def test_a_class_that_is_not_there_is_refused(value: int) -> None:
    prior = np.zeros(SHAPE, np.int8)
    prior[1, 2, 3] = value
    with pytest.raises(ValueError, match="prior classes must be -1 to 2"):
        correct_pseudo_labels(_likelihood(0), prior)


# --- what two phases say

CLASSES = Compartments(cortex=2, medulla=1)
CALYX_MM, MEDULLA_MM, CORTEX_MM = 6.0, 14.0, 22.0


def _radii(shape: tuple[int, ...], spacing: Spacing) -> NDArray[np.float64]:
    """mm from the middle."""
    lines = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return np.sqrt(sum(p**2 for p in np.meshgrid(*lines, indexing="ij")))


def _phases(
    radii: NDArray, noise: float = 12.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """CTA, CTU and kidney of a ball: a cortex shell, a medulla shell, contrast in the middle."""
    arterial = np.full(radii.shape, -80.0)
    excretory = np.full(radii.shape, -80.0)
    for reach, early, late in (
        (CORTEX_MM, 230.0, 130.0),
        (MEDULLA_MM, 110.0, 140.0),
        (CALYX_MM, 50.0, 950.0),
    ):
        arterial[radii < reach], excretory[radii < reach] = early, late
    generator = np.random.default_rng(0)
    arterial += generator.normal(0, noise, radii.shape)
    excretory += generator.normal(0, noise, radii.shape)
    return arterial, excretory, radii < CORTEX_MM


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((26, 26, 26), (2.0, 2.0, 2.0)), ((16, 50, 28), (3.0, 1.0, 1.8)), ((50, 50, 50), (1.0,) * 3)],
)
@pytest.mark.parametrize("classes", [CLASSES, Compartments(cortex=1, medulla=3, background=2)])
def test_the_phases_tell_cortex_medulla_and_calyx_apart(
    shape: tuple[int, ...], spacing: Spacing, classes: Compartments
) -> None:
    radii = _radii(shape, spacing)
    arterial, excretory, kidney = _phases(radii)
    found = prior_classes(arterial, excretory, kidney, spacing, classes)
    edge = max(2.0, *spacing)
    cortex = (radii > MEDULLA_MM + edge) & (radii < CORTEX_MM - edge)
    medulla = (radii > CALYX_MM + edge) & (radii < MEDULLA_MM - edge)
    calyx = radii < CALYX_MM - 3
    for inside, value in (
        (cortex, classes.cortex),
        (medulla, classes.medulla),
        (calyx, classes.background),
    ):
        assert inside.sum() >= 8
        assert (found[inside] == value).mean() > 0.97
    assert (found[~kidney] == UNKNOWN).all()
    assert (found[kidney] != UNKNOWN).all()


def test_the_same_difference_outside_the_kidney_says_nothing() -> None:
    arterial, excretory, kidney = _phases(_radii((20, 20, 20), (2.5,) * 3))
    half = kidney & (np.arange(20) < 10)
    found = prior_classes(arterial, excretory, half, (2.5,) * 3, CLASSES)
    assert (found[~half] == UNKNOWN).all()
    assert set(np.unique(found[half])) == {0, 1, 2}


def test_the_arterial_phase_is_the_one_the_other_is_taken_from() -> None:
    """Exchanged, cortex is the darkest tissue and contrast in the calyces the brightest."""
    arterial, excretory, kidney = _phases(_radii((22, 22, 22), (2.0,) * 3), noise=0)
    right = prior_classes(arterial, excretory, kidney, (2.0,) * 3, CLASSES)
    wrong = prior_classes(excretory, arterial, kidney, (2.0,) * 3, CLASSES)
    middle = (11, 11, 11)
    assert (right[middle], wrong[middle]) == (CLASSES.background, CLASSES.cortex)


@pytest.mark.parametrize(
    ("difference", "expected"), [(30.0, 2), (-30.0, 1), (0.0, 1), (-119.0, 1), (-500.0, 0)]
)
def test_a_constant_difference_is_compared_with_zero(difference: float, expected: int) -> None:
    kidney = np.zeros((6, 6, 6), bool)
    kidney[1:5, 1:5, 1:5] = True
    excretory = np.full(kidney.shape, 100.0)
    found = prior_classes(excretory + difference, excretory, kidney, (1.0,) * 3, CLASSES)
    assert (found[kidney] == expected).all()


@pytest.mark.parametrize(("low", "high", "expected"), [(110.0, 160.0, 2), (-90.0, -20.0, 1)])
def test_the_threshold_stays_between_medulla_and_cortex(
    low: float, high: float, expected: int
) -> None:
    """A kidney of one compartment alone is not cut in two."""
    difference = np.where(np.arange(8) < 4, low, high) * np.ones((8, 8, 8))
    kidney = np.ones((8, 8, 8), bool)
    found = prior_classes(difference, np.zeros((8, 8, 8)), kidney, (1.0,) * 3, CLASSES)
    assert (found == expected).all()


def test_an_empty_kidney_has_no_prior() -> None:
    arterial, excretory, kidney = _phases(_radii((8, 8, 8), (2.0,) * 3))
    found = prior_classes(arterial, excretory, np.zeros_like(kidney), (2.0,) * 3, CLASSES)
    assert (found == UNKNOWN).all()


def test_single_wrong_voxels_are_filtered_away() -> None:
    difference = np.where(np.arange(16) < 8, -30.0, 100.0) * np.ones((16, 16, 16))
    difference[4, 4, 4] = 2000
    difference[12, 12, 12] = -2000
    kidney = np.ones(difference.shape, bool)
    found = prior_classes(difference, np.zeros_like(difference), kidney, (1.0,) * 3, CLASSES)
    assert (found[4, 4, 4], found[12, 12, 12]) == (CLASSES.medulla, CLASSES.cortex)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("fine", "expected"), [(0.1, CLASSES.medulla), (2.0, CLASSES.cortex)])
def test_the_blur_is_measured_in_millimetres(axis: int, fine: float, expected: int) -> None:
    """A layer of three voxels: 0.3 mm of medulla's neighbours drown it, 6 mm stay what they are."""
    profile = np.full(60, -30.0)
    profile[:25] = profile[44:47] = 100
    turned = np.moveaxis(profile * np.ones((7, 7, 60)), 2, axis)
    spacing = [3.0, 3.0, 3.0]
    spacing[axis] = fine
    kidney = np.ones(turned.shape, bool)
    z, y, x = spacing
    found = prior_classes(turned, np.zeros_like(turned), kidney, (z, y, x), CLASSES)
    line = np.moveaxis(found, axis, 2)[3, 3]
    assert line[45] == expected
    assert line[5] == CLASSES.cortex
    assert line[35] == line[55] == CLASSES.medulla


def test_the_images_are_not_changed() -> None:
    arterial, excretory, kidney = _phases(_radii((8, 8, 8), (2.0,) * 3))
    before = arterial.copy(), excretory.copy(), kidney.copy()
    prior_classes(arterial, excretory, kidney, (2.0,) * 3, CLASSES)
    for now, then in zip((arterial, excretory, kidney), before, strict=True):
        np.testing.assert_array_equal(now, then)


# --- where the kidney is


def test_small_gaps_are_closed_and_large_ones_are_not() -> None:
    labels = np.ones((12, 12, 30), bool)
    labels[:, :, 8:10] = False
    labels[:, :, 16:24] = False
    found = kidney_of(labels, (1.0, 1.0, 1.0))
    assert found[3:-3, 3:-3, :16].all()
    assert not found[:, :, 18:22].any()


def test_holes_are_filled_and_bays_are_not() -> None:
    labels = np.zeros((20, 20, 20), bool)
    labels[1:19, 1:19, 1:19] = True
    labels[5:15, 5:15, 5:15] = False
    assert kidney_of(labels, (1.0,) * 3)[5:15, 5:15, 5:15].all()
    labels[:5, 5:15, 5:15] = False
    assert not kidney_of(labels, (1.0,) * 3)[10, 10, 10]


def test_nothing_is_lost_at_the_arrays_border() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random((9, 10, 11)) < 0.3
    labels[:3, :3, :3] = True
    found = kidney_of(labels, (1.0, 1.0, 1.0))
    assert found.shape == labels.shape
    assert found[labels].all()
    whole = np.ones((6, 6, 6), bool)
    assert kidney_of(whole, (1.0,) * 3).all()


def test_a_kidney_does_not_grow_outwards() -> None:
    labels = np.zeros((24, 24, 24), bool)
    labels[8:16, 8:16, 8:16] = True
    np.testing.assert_array_equal(kidney_of(labels, (1.0,) * 3), labels)


@pytest.mark.parametrize(("axis", "closed"), [(0, False), (1, True), (2, True)])
def test_gaps_are_measured_in_millimetres(axis: int, closed: bool) -> None:
    """Four voxels are 8 mm along the coarse axis and 4 mm along the others; 6 mm are closed."""
    labels = np.ones((20, 20, 20), bool)
    gap = [slice(None)] * 3
    gap[axis] = slice(8, 12)
    labels[tuple(gap)] = False
    found = kidney_of(labels, (2.0, 1.0, 1.0))
    assert found[tuple(gap)].any() == closed


@pytest.mark.parametrize(("voxels", "closed"), [(10, True), (14, False)])
def test_a_fine_grid_is_closed_over_many_voxels(voxels: int, closed: bool) -> None:
    """Of half a millimetre: 5 mm are closed, 7 mm are not."""
    labels = np.ones((20, 20, 34), bool)
    labels[:, :, 10 : 10 + voxels] = False
    found = kidney_of(labels, (0.5, 0.5, 0.5))
    assert found[10, 10, 10 + voxels // 2] == closed


def test_a_grid_coarser_than_the_closing_is_left_open() -> None:
    labels = np.ones((5, 5, 9), bool)
    labels[:, :, 4] = False
    np.testing.assert_array_equal(kidney_of(labels, (4.0, 4.0, 4.0)), labels)


def test_no_kidney_stays_none() -> None:
    assert not kidney_of(np.zeros((4, 5, 6), bool), (1.0,) * 3).any()
