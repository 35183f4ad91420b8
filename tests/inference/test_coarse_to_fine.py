"""Which network looks where, and what is made of the answers: by stubs whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from renalplan.geometry import Shape
from renalplan.images import Volume
from renalplan.inference.options import InferenceOptions
from renalplan.inference.segmenters.coarse_to_fine import CoarseToFineSegmenter
from renalplan.kidneys import count_kidneys
from renalplan.model_folder import ModelFolder
from renalplan.regions import find_pieces

SPACING = (2.0, 1.0, 1.0)  # of the plan, and of the volumes here: 0.002 ml a voxel
SHAPE = (24, 40, 48)
RIGHT = (slice(6, 16), slice(14, 26), slice(6, 16))  # 2.4 ml
LEFT = (slice(6, 16), slice(14, 26), slice(32, 42))
PHASES = ("coarse", "correction", "fine", "tumor_3d", "tumor_2d")
BODY, KIDNEY, TUMOR = 0.0, 1.0, 2.0


class Level(nn.Module):
    """Foreground where the first channel lies above a level; remembers what it was shown."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image.clone())
        above = 20 * (image[:, :1] - self.level)
        return torch.cat([-above, above], 1)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        return {tuple(image.shape[1:]) for image in self.seen}


def _scan(*kidneys: tuple[slice, slice, slice], tumor: Any = None) -> NDArray[np.float32]:
    scan = np.full(SHAPE, BODY, np.float32)
    scan[0, 0, 0] = -1.0  # so that the body box is everything else, and this row with it
    scan[-1, -1, -1] = 0.5
    for kidney in kidneys:
        scan[kidney] = KIDNEY
    if tumor is not None:
        scan[tumor] = TUMOR
    return scan


@pytest.fixture
def segmenter(make_model: Callable[..., ModelFolder]) -> Callable[..., CoarseToFineSegmenter]:
    made_before: list[int] = []

    def make(options: InferenceOptions | None = None, **values: Any) -> CoarseToFineSegmenter:
        made_before.append(1)
        model = make_model(
            f"model_{len(made_before)}", labels={"background": 0, "kidney": 1, "tumor": 2}
        )
        folds = values.pop("folds", ["0"])
        levels = dict.fromkeys(PHASES, 0.5) | {"tumor_3d": 1.5, "tumor_2d": 1.5}
        levels |= values.pop("levels", {})
        arguments: dict[str, Any] = {
            "kidney": "kidney", "tumor": "tumor", "coarse_pixels": 48,
            "sagittal_window": [1, 16, 24], "axial_window": [1, 16, 16], "patch_3d": [8, 16, 16],
            "threshold_ml": 1.0, "padding_mm": 3.0, "correction": True,
        }  # fmt: skip
        made = CoarseToFineSegmenter(
            model,
            folds,
            options or InferenceOptions(device="cpu", engine="torch", precision="fp32"),
            **(arguments | values),
        )
        networks = {phase: [Level(levels[phase]) for _ in folds] for phase in PHASES}
        for phase, levels_of_folds in networks.items():
            made.networks.use(phase, list(levels_of_folds))
        made.__dict__["shown"] = networks
        return made

    return make


def _volume(scan: NDArray[np.float32]) -> Volume:
    return Volume(array=scan[None], spacing=SPACING, grid=None)  # type: ignore[arg-type]


def _labels(made: CoarseToFineSegmenter, scan: NDArray[np.float32]) -> tuple[NDArray, dict]:
    field = made.segment(_volume(scan))
    assert field.decisions is not None
    return field.labels(made.model.scheme), field.decisions.as_json()


def _seen(made: CoarseToFineSegmenter, phase: str) -> Level:
    (network,) = made.__dict__["shown"][phase]
    assert isinstance(network, Level)
    return network


def test_each_network_is_shown_its_own_window(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter()
    _labels(made, _scan(LEFT, tumor=(slice(8, 11), slice(16, 20), slice(34, 38))))
    assert _seen(made, "coarse").shapes == {(1, 1, 48, 48)}
    assert _seen(made, "correction").shapes == {(1, 1, 16, 24)}
    assert _seen(made, "fine").shapes == {(1, 1, 16, 16)}
    assert _seen(made, "tumor_3d").shapes == {(1, 8, 16, 16)}
    assert _seen(made, "tumor_2d").shapes == {(2, 1, 16, 16)}
    # the coarse network sees every slice; the fine one those of the kidney and 3 mm: 2 more each
    assert sum(len(image) for image in _seen(made, "coarse").seen) == SHAPE[0]
    assert sum(len(image) for image in _seen(made, "fine").seen) == 14
    # the correction sees every sagittal slice
    assert sum(len(image) for image in _seen(made, "correction").seen) == SHAPE[2]


def test_a_normal_case_is_not_corrected(segmenter: Callable[..., CoarseToFineSegmenter]) -> None:
    made = segmenter()
    labels, decided = _labels(made, _scan(RIGHT, LEFT))
    assert not _seen(made, "correction").seen
    assert not decided["abnormal"]
    assert (labels > 0).sum() == pytest.approx(2400, rel=0.05)


def test_a_solitary_kidney_is_found_by_itself(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter()
    labels, decided = _labels(made, _scan(RIGHT))
    assert decided["abnormal"]
    assert decided["corrected"]
    assert (decided["kidneys_found"], decided["kidneys_segmented"]) == (1, 1)
    expected = np.zeros(SHAPE, np.uint8)
    expected[RIGHT] = 1
    assert np.array_equal(labels, expected)
    assert decided["remarks"][0] == (
        "the coarse network shows 1 kidney where 2 are usual; the sagittal plane shows as many, "
        "and its mask is used"
    )


def test_where_the_coarse_network_finds_nothing_the_correction_sees_all_of_the_scan(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter(levels={"coarse": 5.0})
    labels, decided = _labels(made, _scan(RIGHT, LEFT))
    assert (decided["coarse_kidneys"], decided["kidneys_found"]) == (0, 2)
    assert decided["coarse_components_ml"] == []
    assert (labels > 0).sum() == pytest.approx(2400, rel=0.05)
    assert decided["remarks"][0].startswith("the coarse network shows no kidneys where 2 are usual")


def test_what_lies_beyond_the_sagittal_window_is_not_kidney(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    far = (slice(20, 24), slice(0, 12), slice(20, 44))  # 1152 voxels, 2.3 ml
    made = segmenter(sagittal_window=[1, 8, 12])
    image = torch.from_numpy(_scan(RIGHT, far)[None])
    coarse = np.zeros(SHAPE, bool)
    coarse[RIGHT] = True
    coarse[0, 0, 0] = True  # a speck does not pull the window away
    found = made.corrected(image, coarse, SPACING)
    # 8 x 12 around (10.5, 19.5): slices 7 to 14, rows 14 to 25
    expected = np.zeros(SHAPE, bool)
    expected[7:15, 14:26] = (image[0].numpy() > 0.5)[7:15, 14:26]
    assert np.array_equal(found > 0.5, expected)
    assert not found[:7].any()
    assert not found[:, 26:].any()


def test_specks_alone_are_no_middle_to_look_around(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter(sagittal_window=[1, 8, 12])
    speck = np.zeros(SHAPE, bool)
    speck[0, 0, 0] = True
    scan = _scan(RIGHT, LEFT)
    found = made.corrected(torch.from_numpy(scan[None]), speck, SPACING)
    assert np.array_equal(found > 0.5, scan > 0.5)


def test_a_correction_that_loses_the_kidney_is_not_used(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    labels, decided = _labels(segmenter(levels={"correction": 5.0}), _scan(LEFT))
    assert decided["abnormal"]
    assert not decided["corrected"]
    assert decided["corrected_components_ml"] == []
    assert decided["kidneys_found"] == 1
    assert (labels[LEFT] == 1).all()
    assert decided["remarks"][0].endswith("the correction shows none and is not used")


def test_without_correction_its_network_is_not_needed(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter(correction=False)
    made.networks.use("correction", [])
    _, decided = _labels(made, _scan(LEFT))
    assert (decided["abnormal"], decided["corrected"]) == (True, False)
    assert decided["corrected_components_ml"] is None
    assert decided["remarks"][0].endswith("the model was trained without correction")


def test_nothing_at_all_is_an_empty_answer_that_says_so(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    labels, decided = _labels(segmenter(), _scan())
    assert not labels.any()
    assert (decided["kidneys_found"], decided["kidneys_segmented"]) == (0, 0)
    assert decided["tumor_source"] == "none"
    assert decided["kidney_ml"] == decided["tumors_ml"] == []
    assert decided["remarks"][-1] == "no kidney found; the segmentation is empty"


def test_a_small_piece_is_taken_for_a_kidney_if_there_is_nothing_larger(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    small = (slice(8, 13), slice(16, 24), slice(34, 40))  # 0.48 ml
    labels, decided = _labels(segmenter(), _scan(small))
    assert (decided["kidneys_found"], decided["kidneys_segmented"]) == (0, 1)
    assert (labels[small] == 1).all()
    assert (
        "nothing is as large as a kidney; the largest piece is taken for one" in decided["remarks"]
    )


def test_touching_kidneys_are_segmented_one_by_one(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    bridge = (slice(9, 12), slice(18, 22), slice(16, 32))
    made = segmenter()
    labels, decided = _labels(made, _scan(RIGHT, LEFT, bridge))
    assert (decided["kidneys_found"], decided["kidneys_segmented"]) == (1, 2)
    assert sum(len(image) for image in _seen(made, "fine").seen) == 2 * 14
    assert (labels[RIGHT] == 1).all()
    assert (labels[LEFT] == 1).all()
    assert any("both sides of the body" in remark for remark in decided["remarks"])


def test_where_fine_windows_overlap_their_mean_counts(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    class Ramp(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            along = torch.linspace(-3, 3, image.shape[-1]).expand(image.shape)
            return torch.cat([-along, along], 1)

    made = segmenter(axial_window=[1, 16, 32])
    made.networks.use("fine", [Ramp()])
    image = torch.from_numpy(_scan(RIGHT, LEFT)[None])
    kidneys = count_kidneys(_scan(RIGHT, LEFT) > 0.5, SPACING, 1.0)
    both = made.fine(image, kidneys, SPACING)
    one, two = (made.fine(image, [kidney], SPACING) for kidney in kidneys)
    overlap = (one > 0) & (two > 0)
    assert overlap.any()
    assert np.allclose(both[overlap], (one + two)[overlap] / 2)
    assert np.allclose(both[~overlap], (one + two)[~overlap])


def test_the_2d_network_is_given_the_fine_mask_and_looks_at_the_lesions_slices(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter()
    tumor = (slice(8, 12), slice(16, 20), slice(34, 38))
    labels, decided = _labels(made, _scan(RIGHT, LEFT, tumor=tumor))
    assert decided["tumor_source"] == "3d+2d"
    assert (labels[tumor] == 2).all()
    assert (labels == 2).sum() == 64
    network = _seen(made, "tumor_2d")
    shown = torch.cat(network.seen)
    assert set(shown[:, 0, 0].unique().tolist()) >= {KIDNEY, TUMOR}
    assert torch.equal(shown[:, 1] > 0.5, shown[:, 0] > 0.5)  # the kidney mask, tumor included
    # slices 8 to 11, of the left kidney's box alone: 16 x 18 is more than a window wide
    places = sum(len(image) for image in network.seen)
    assert places % 4 == 0
    assert (shown[:, 0] == TUMOR).flatten(1).any(1).all()


def test_a_tumor_that_the_3d_network_misses_is_found_by_the_2d_one(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    made = segmenter(levels={"tumor_3d": 9.0})
    tumor = (slice(8, 12), slice(16, 20), slice(34, 38))
    labels, decided = _labels(made, _scan(RIGHT, LEFT, tumor=tumor))
    assert decided["tumor_source"] == "2d fallback"
    assert (labels == 2).sum() == (labels[tumor] == 2).sum() == 64
    assert decided["tumors_ml"] == [pytest.approx(0.128)]
    assert any("3-D network finds no tumor" in remark for remark in decided["remarks"])


def test_a_lesion_off_the_kidneys_is_removed_and_said(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    scan = _scan(RIGHT, LEFT, tumor=(slice(8, 12), slice(16, 20), slice(34, 38)))
    made = segmenter(padding_mm=6.0)
    stray = (slice(8, 12), slice(10, 12), slice(34, 44))
    kidney = scan > 0.5
    scan[stray] = TUMOR
    found = made.find_tumors(torch.from_numpy(scan[None]), kidney, SPACING)
    assert found.removed_ml == (pytest.approx(0.16),)
    assert not found.probability[stray].any()
    assert (found.probability > 0.5).sum() == 64


def test_folds_are_averaged_step_by_step(
    segmenter: Callable[..., CoarseToFineSegmenter],
) -> None:
    # one fold finds the left kidney only, the other one, twice as sure, both: together both
    scan = _scan(RIGHT)
    scan[LEFT] = 3.0
    made = segmenter(folds=["0", "1"])
    for phase, (first, second) in {"coarse": (2.0, -0.5), "fine": (1.2, 0.5)}.items():
        made.networks.use(phase, [Level(first), Level(second)])
    image = torch.from_numpy(scan[None])
    mean = made.coarse(image)
    assert np.array_equal(mean > 0.5, scan > 0.75)  # (2 - 0.5) / 2
    kidneys = find_pieces(scan > 0.5, SPACING, 0.0)
    fine = made.fine(image, kidneys, SPACING)
    assert np.array_equal(fine > 0.5, scan > 0.85)


def test_mirroring_is_passed_on(segmenter: Callable[..., CoarseToFineSegmenter]) -> None:
    plain, mirrored = (
        segmenter(),
        segmenter(InferenceOptions(device="cpu", engine="torch", precision="fp32", tta=True)),
    )
    scan = _scan(LEFT)
    expected, _ = _labels(plain, scan)
    found, _ = _labels(mirrored, scan)
    assert np.array_equal(expected, found)
    # 2-D windows have four mirrored copies, 3-D ones eight
    for phase, copies in (("fine", 4), ("tumor_3d", 8)):
        once = sum(len(image) for image in _seen(plain, phase).seen)
        assert sum(len(image) for image in _seen(mirrored, phase).seen) == copies * once


@pytest.mark.parametrize("shape", [(3, 10, 12), (1, 30, 30)])
def test_scans_smaller_than_the_windows_are_answered(
    segmenter: Callable[..., CoarseToFineSegmenter], shape: Shape
) -> None:
    scan = np.zeros(shape, np.float32)
    scan[0, 0, 0] = -1
    scan[:, 3:9, 3:9] = KIDNEY
    scan[-1, -1, -1] = 0.4
    labels, _ = _labels(segmenter(), scan)
    assert labels.shape == shape
    assert set(np.unique(labels)) <= {0, 1, 2}
