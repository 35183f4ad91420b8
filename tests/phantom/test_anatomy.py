"""Drawn patients have the anatomy the sources state, before anything is rendered."""

from dataclasses import replace

import numpy as np
import pytest

from renalplan.phantom.anatomy import Patient, draw_patient, draw_sides, generator
from renalplan.phantom.tissue import PHASES, TABLE, draw_values, table_hu


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [draw_patient(7, index) for index in range(40)]


def test_one_patient_in_twenty_has_one_kidney() -> None:
    counts = [len(draw_sides(generator(0, index, 1))) for index in range(4000)]
    # 4000 draws of probability 0.05: sd of the rate is sqrt(0.05 * 0.95 / 4000) = 0.0034
    assert np.mean(np.array(counts) == 1) == pytest.approx(0.05, abs=0.0138)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 30)])
def test_how_many_have_one_kidney_can_be_asked_for(share: float, expected: int) -> None:
    drawn = [draw_patient(3, i, tumors=False, single_kidney_share=share) for i in range(30)]
    assert sum(len(patient.kidneys) == 1 for patient in drawn) == expected
    if expected:
        sides = [patient.kidneys[0].side for patient in drawn]
        assert 7 <= sides.count("left") <= 23
    # whoever has the same number of kidneys is the same patient
    usual = [draw_patient(3, i, tumors=False) for i in range(30)]
    same = [(a, b) for a, b in zip(drawn, usual, strict=True) if len(a.kidneys) == len(b.kidneys)]
    assert same
    assert all(np.array_equal(a.kidneys[0].centre, b.kidneys[0].centre) for a, b in same)
    assert all(a.abdomen.spine_y == b.abdomen.spine_y for a, b in zip(drawn, usual, strict=True))


def test_left_kidney_lies_at_larger_x(patients: list[Patient]) -> None:
    for patient in patients:
        for kidney in patient.kidneys:
            assert (kidney.centre[2] > 20) == (kidney.side == "left")


def test_hilum_faces_the_midline_and_the_front(patients: list[Patient]) -> None:
    for patient in patients:
        for kidney in patient.kidneys:
            hilum = -kidney.frame[2]  # direction (z, y, x)
            assert hilum[1] < 0
            assert hilum[2] * kidney.sign < 0


def test_frames_are_right_angled(patients: list[Patient]) -> None:
    for patient in patients:
        for kidney in patient.kidneys:
            np.testing.assert_allclose(kidney.frame @ kidney.frame.T, np.eye(3), atol=1e-12)


def test_bean_and_patient_coordinates_are_inverse(patients: list[Patient]) -> None:
    kidney = patients[0].kidneys[0]
    points = np.array([[30.0, 4.0, -10.0], [-20.0, -8.0, 15.0]])
    back = np.stack(kidney.bean(*kidney.patient(points).T), axis=1)
    np.testing.assert_allclose(back, points, atol=1e-3)


def test_arteries_fill_their_share_of_a_kidney_region(patients: list[Patient]) -> None:
    volumes = [tree.volume_ml for patient in patients for tree in patient.arteries]
    # a region of 99 x 99 x 100 mm has 980 ml; 0.2 to 0.35 % of it are 1.96 to 3.43 ml
    assert 1.96 < np.mean(volumes) < 3.43


def test_every_artery_starts_in_the_aorta(patients: list[Patient]) -> None:
    for patient in patients:
        for tree in patient.arteries:
            root = tree.start[0]
            aorta = patient.abdomen.aorta
            nearest = np.abs(aorta.start[:, 0] - root[0]).argmin()
            assert np.linalg.norm(aorta.start[nearest, 1:] - root[1:]) < 8


def test_children_of_a_vessel_obey_the_radius_law(patients: list[Patient]) -> None:
    tree = patients[0].arteries[0]
    lines = [tree.only(tree.line == number) for number in np.unique(tree.line)]
    trunk = lines[0].end_radius[-1]
    segments = [line.start_radius[0] for line in lines if line.level[0] == 1]
    assert len(segments) == 5
    assert sum(radius**2.1 for radius in segments) == pytest.approx(trunk**2.1)


def test_accessory_arteries_occur_in_a_third_of_the_patients() -> None:
    found = [any(draw_patient(1, index, tumors=False).accessory) for index in range(120)]
    # sd of the rate: sqrt(0.337 * 0.663 / 120) = 0.043
    assert np.mean(found) == pytest.approx(0.337, abs=0.13)


def test_tumors_touch_the_kidney_and_vary_in_size(patients: list[Patient]) -> None:
    tumors = [tumor for patient in patients for tumor in patient.tumors]
    assert len(tumors) >= 38
    assert all(0.2 <= tumor.contact <= 0.9 for tumor in tumors)
    diameters = np.array([tumor.diameter_mm for tumor in tumors])
    assert 28 < np.median(diameters) < 42
    assert diameters.max() > 1.8 * diameters.min()


def test_volume_of_a_round_tumor_is_that_of_a_ball(patients: list[Patient]) -> None:
    tumor = replace(patients[0].tumors[0], semi=np.full(3, 10.0), bumps=np.zeros(5))
    assert tumor.volume_ml == pytest.approx(4 / 3 * np.pi, rel=1e-5)  # 4/3 pi 10^3 mm3
    assert tumor.diameter_mm == pytest.approx(20, rel=0.01)


def test_tissue_values_average_to_the_table() -> None:
    drawn = [draw_values(np.random.default_rng([5, i])) for i in range(400)]
    for tissue in ("cortex", "medulla", "artery", "muscle", "liver", "clear_cell", "fat"):
        for phase in PHASES:
            mean = np.mean([values[tissue][phase] for values in drawn])
            # the enhancement's sd is 21 %: 400 draws give 1 % of it; four times that, plus 1.5 HU
            allowed = 0.045 * abs(table_hu(tissue, phase)) + 1.5
            assert mean == pytest.approx(table_hu(tissue, phase), abs=allowed), (tissue, phase)


def test_urine_is_bright_only_in_the_excretory_phase() -> None:
    values = draw_values(np.random.default_rng(0))["collecting_system"]
    assert 400 <= values["excretory"] <= 2500
    assert values["arterial"] < 40


def test_every_tissue_has_every_phase() -> None:
    assert all(len(row) == len(PHASES) for row, _ in TABLE.values())
