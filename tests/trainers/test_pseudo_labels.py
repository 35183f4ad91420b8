"""Pseudo labels: the phase's own network, Bayes' rule, HU of both phases, regions, and killed runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from renalplan.dataset import DatasetDescription
from renalplan.files import write_json
from renalplan.geometry import Box, box_slices, whole_box
from renalplan.labels import LabelScheme
from renalplan.model_folder import WEIGHTS, ModelFolder, build_network
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, StagePlan
from renalplan.store import ItemArrays, StoredCase, write_case, write_item
from renalplan.trainers import pseudo_labels
from renalplan.trainers.bayes import UNKNOWN, Compartments, kidney_of, prior_classes
from renalplan.trainers.phase import save_weights
from renalplan.trainers.pseudo_labels import PhasePrior, make_pseudo_labels
from renalplan.trainers.relabelled import relabelled
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unlabelled import REGIONS, REGIONS_PHASE, FoundRegions

Make = Callable[..., TrainingTask]
SHAPE = (20, 24, 22)
SPACING = (3.0, 1.0, 2.0)
MEDULLA, CORTEX = 1, 2
NAMES = ("un_x", "un_y")


def _channel(name: str, mean: float, std: float) -> ChannelPlan:
    known = Intensities(
        mean=mean,
        std=std,
        minimum=-1000,
        maximum=2000,
        median=mean,
        percentile_00_5=-1000,
        percentile_99_5=2000,
    )
    return ChannelPlan(name=name, normalisation="ct", intensities=known)


CHANNELS = (_channel("CTA", 120, 60), _channel("CTU", 300, 150))
PRIOR = PhasePrior(
    arterial=0, excretory=1, classes=Compartments(cortex=CORTEX, medulla=MEDULLA), omega=0.3
)


def _hounsfield(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    """CTA and CTU of a block of medulla in a block of cortex, with a calyx."""
    generator = np.random.default_rng(seed)
    z, y, x = (n // 8 for n in shape)
    found = np.full((2, *shape), -80.0)
    for step, early, late in ((1, 230.0, 130.0), (2, 110.0, 140.0), (3, 60.0, 900.0)):
        inside = tuple(slice(step * n, -step * n) for n in (z, y, x))
        found[(0, *inside)], found[(1, *inside)] = early, late
    return found + generator.normal(0, 15, found.shape)


def _stored(task: TrainingTask, stage: StagePlan, case: str, hu: NDArray) -> None:
    """An unlabelled case of two phases, each normalised by its own numbers."""
    known = [channel.intensities for channel in CHANNELS]
    image = np.stack([(h - k.mean) / k.std for h, k in zip(hu, known, strict=True)])
    shape = image.shape[1:]
    folder = task.stores / stage.name
    item = write_item(
        folder, f"{case}.0", image.astype(np.float32), None, whole_box(shape), task.scheme
    )
    values: dict[str, Any] = {"patient": case, "inputs": "-", "recipe": "-"}
    write_case(folder, StoredCase(case=case, spacing=SPACING, items=(item,), **values))


@pytest.fixture
def description() -> DatasetDescription:
    return DatasetDescription(
        channel_names={"0": "CTA", "1": "CTU"},
        labels={"background": 0, "medulla": MEDULLA, "cortex": CORTEX},
    )


@pytest.fixture(scope="module")
def made() -> dict[str, TrainingTask]:
    """Tasks by configuration, so that stores are written once; no test changes them."""
    return {}


@pytest.fixture
def make(request: pytest.FixtureRequest, made: dict[str, TrainingTask], tmp_path: Path) -> Make:
    """A task whose unlabelled cases un_x and un_y have two phases."""

    def build(configuration: str = "whole", **values: Any) -> TrainingTask:
        if configuration not in made:
            plain = request.getfixturevalue("make_task")(configuration)
            plan = plain.plan.model_copy(update={"channels": CHANNELS})
            made[configuration] = replace(plain, plan=plan)
            for number, case in enumerate(NAMES):
                _stored(made[configuration], plan.run(configuration)[-1], case, _hounsfield(number))
        own = {"model": ModelFolder(tmp_path / "model"), "unlabelled": NAMES}
        return replace(made[configuration], **(own | values))

    return build


def _stage(task: TrainingTask) -> StagePlan:
    """The last stage, whose window is the whole scan."""
    return task.stages[-1].model_copy(update={"patch_size": SHAPE})


def _spec(channels: int) -> NetworkSpec:
    return NetworkSpec(
        factory="renalplan.networks.prototypes:PrototypeNetwork",
        arguments={
            "in_channels": channels,
            "classes": 3,
            "draws": 2,
            "widths": [4, 8],
            "features": 4,
            "scale": 2.0,
        },
    )


def _network(task: TrainingTask, phase: str, channels: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = build_network(_spec(channels), "test").eval()
    network.get_buffer("prototypes").normal_()
    save_weights(task.fold_folder / phase / WEIGHTS, network)
    return network


def _labels(task: TrainingTask, stage: StagePlan, folder: Path) -> dict[str, NDArray]:
    return {
        item.case: np.asarray(relabelled(item, folder).labels[0])
        for item in task.unlabelled_items(stage)
    }


def _expected(
    likelihood: NDArray, hu: NDArray, prior: PhasePrior = PRIOR
) -> tuple[NDArray, NDArray, NDArray]:
    """Eq. 2 from the network's probabilities and true HU; what is named, and the network alone."""
    alone = likelihood.argmax(0)
    named = prior_classes(
        hu[prior.arterial],
        hu[prior.excretory],
        kidney_of(alone > 0, SPACING),
        SPACING,
        prior.classes,
    )
    posterior = np.zeros_like(likelihood)
    right = 1 / 3 + prior.omega
    for k in range(3):
        p = np.where(named == UNKNOWN, 1 / 3, np.where(named == k, right, (1 - right) / 2))
        posterior[k] = p * likelihood[k]
    return posterior.argmax(0), named, alone


# --- with the real predictor


@pytest.mark.parametrize("channels", [(0,), (1,), None, (1, 0)])
def test_labels_follow_equation_2_whatever_channels_the_network_sees(
    make: Make, tmp_path: Path, channels: tuple[int, ...] | None
) -> None:
    task = make().with_channels(channels)
    stage = _stage(task)
    seen = channels or (0, 1)
    network = _network(task, "prototypes_7", len(seen), seed=1)
    _network(task, stage.name, len(seen), seed=2)
    _network(task, "supervised", len(seen), seed=3)
    folder = tmp_path / "pseudo"
    folder.mkdir()
    make_pseudo_labels(task, stage, _spec(len(seen)), "prototypes_7", PRIOR, folder)
    found = _labels(task, stage, folder)
    assert set(found) == set(NAMES)
    for number, item in enumerate(task.unlabelled_items(stage)):
        stored = np.asarray(item.image[:], np.float32)
        with torch.no_grad():
            logits: Tensor = network(torch.from_numpy(stored[list(seen)])[None])[0]
        likelihood = logits.double().softmax(0).numpy()
        expected, named, alone = _expected(likelihood, _hounsfield(number))
        assert (found[item.case] == expected).mean() > 0.995  # HU are stored in half precision
        assert set(np.unique(expected)) == {0, 1, 2}
        for other in (np.maximum(named, 0), alone):
            assert (other != expected).mean() > 0.02, "neither the prior nor the network alone"


def test_labels_of_omega_0_are_the_networks(make: Make, tmp_path: Path) -> None:
    task = make().with_channels((0,))
    stage = _stage(task)
    network = _network(task, "p", 1, seed=1)
    make_pseudo_labels(task, stage, _spec(1), "p", replace(PRIOR, omega=0.0), tmp_path)
    item = task.unlabelled_items(stage)[0]
    with torch.no_grad():
        logits = network(torch.from_numpy(item.whole_image())[None])[0]
    found = _labels(task, stage, tmp_path)[item.case]
    assert (found == logits.argmax(0).numpy()).mean() > 0.999


# --- with a known opinion


class Opinion:
    """Instead of a trained network: what is bright in the first channel it sees is cortex."""

    calls: list[tuple[int, ...]] = []  # noqa: RUF012 - cleared by the fixture
    sure = 0.5  # probability of its class

    def __init__(
        self, task: TrainingTask, stage: StagePlan, network: NetworkSpec, *, phase: str
    ) -> None:
        assert phase == "prototypes_1"

    def logits(self, image: NDArray[np.float32]) -> Tensor:
        Opinion.calls.append(image.shape)
        chosen = torch.from_numpy(np.where(image[0] > -2, CORTEX, 0))
        p = torch.full((3, *chosen.shape), (1 - self.sure) / 2)
        return p.scatter(0, chosen[None], self.sure).log()


@pytest.fixture(autouse=True)
def calls() -> list[tuple[int, ...]]:
    Opinion.calls.clear()
    return Opinion.calls


@pytest.fixture
def opinion(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(pseudo_labels, "ItemPredictor", Opinion)

    def run(task: TrainingTask, folder: Path, prior: PhasePrior = PRIOR) -> None:
        folder.mkdir(exist_ok=True)
        make_pseudo_labels(task, task.stages[-1], _spec(1), "prototypes_1", prior, folder)

    return run


def _opinion_of(hu: NDArray) -> NDArray[np.float64]:
    chosen = np.where(hu[0] > 120 - 2 * 60, CORTEX, 0)
    return np.where(np.arange(3).reshape(-1, 1, 1, 1) == chosen, 0.5, 0.25)


def test_a_known_opinion_is_corrected(make: Make, opinion: Callable, tmp_path: Path) -> None:
    """Medulla, which the network does not know at all, comes from the phases."""
    task = make().with_channels((0,))
    opinion(task, tmp_path / "pseudo")
    found = _labels(task, task.stages[-1], tmp_path / "pseudo")
    for number, case in enumerate(NAMES):
        expected, named, alone = _expected(_opinion_of(_hounsfield(number)), _hounsfield(number))
        assert (found[case] == expected).mean() > 0.998
        assert not (alone == MEDULLA).any()
        assert (found[case][named == MEDULLA] == MEDULLA).mean() > 0.99
        # the middle, full of contrast medium, is not kidney tissue
        assert found[case][10, 12, 11] == 0
    read = relabelled(task.unlabelled_items(task.stages[-1])[0], tmp_path / "pseudo")
    assert read.item.structures == {
        "medulla": int((found["un_x"] == MEDULLA).sum()),
        "cortex": int((found["un_x"] == CORTEX).sum()),
    }


@pytest.mark.parametrize("channels", [(0,), (1,), None])
@pytest.mark.parametrize(("arterial", "excretory"), [(0, 1), (1, 0)])
def test_the_prior_sees_hounsfield_units_of_both_phases(
    make: Make,
    opinion: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channels: tuple[int, ...] | None,
    arterial: int,
    excretory: int,
) -> None:
    seen: list[tuple[Any, ...]] = []
    real = pseudo_labels.prior_classes

    def recording(*given: Any) -> NDArray[np.int8]:
        seen.append(given)
        return real(*given)

    monkeypatch.setattr(pseudo_labels, "prior_classes", recording)
    task = make().with_channels(channels)
    prior = replace(PRIOR, arterial=arterial, excretory=excretory)
    opinion(task, tmp_path / "pseudo", prior)
    assert len(seen) == 2
    for number, (first, second, kidney, spacing, classes) in enumerate(seen):
        hu = _hounsfield(number)
        # half precision of values up to 8 standard deviations
        np.testing.assert_allclose(first, hu[arterial], atol=0.6)
        np.testing.assert_allclose(second, hu[excretory], atol=0.6)
        assert kidney.shape == SHAPE
        assert spacing == SPACING
        assert classes == PRIOR.classes
    assert {shape[0] for shape in Opinion.calls} == {len(channels or (0, 1))}


def test_the_kidney_is_closed_in_millimetres_of_the_scan(
    make: Make, opinion: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = pseudo_labels.kidney_of

    def recording(labels: NDArray[np.bool_], spacing: Any) -> NDArray[np.bool_]:
        seen.append((labels, spacing))
        return real(labels, spacing)

    monkeypatch.setattr(pseudo_labels, "kidney_of", recording)
    opinion(make().with_channels((0,)), tmp_path / "pseudo")
    labels, spacing = seen[0]
    assert spacing == SPACING
    assert (labels == (_opinion_of(_hounsfield(0)).argmax(0) > 0)).mean() > 0.999


def test_the_log_says_how_much_was_changed(
    make: Make, opinion: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = make().with_channels((0,))
    with caplog.at_level(logging.INFO, logger="renalplan"):
        opinion(task, tmp_path / "pseudo_labels_1")
    changed = inside = 0
    found = _labels(task, task.stages[-1], tmp_path / "pseudo_labels_1")
    for number, case in enumerate(NAMES):
        alone = _opinion_of(_hounsfield(number)).argmax(0)
        changed += (found[case] != alone).sum()
        inside += ((found[case] > 0) | (alone > 0)).sum()
    share = 100 * changed / inside
    assert 20 < share < 95
    assert f"pseudo_labels_1: contrast phases changed {share:.1f} %" in caplog.text


def test_nothing_to_label_is_no_error(
    make: Make, opinion: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opinion(make(unlabelled=()).with_channels((0,)), tmp_path / "pseudo")
    assert list((tmp_path / "pseudo").iterdir()) == []
    assert "contrast phases" not in caplog.text


def test_label_values_are_written_not_class_numbers() -> None:
    scheme = LabelScheme(names=("background", "a", "b"), values=((0,), (7,), (4,)))
    found = pseudo_labels._values(np.array([[0, 1], [2, 1]]), scheme)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, [[0, 7], [4, 7]])


# --- regions

FIRST: Box = ((1, 13), (2, 20), (0, 9))
SECOND: Box = ((5, 20), (3, 24), (12, 22))


def test_only_the_regions_of_a_kidney_stage_are_labelled(
    make: Make, opinion: Callable, tmp_path: Path
) -> None:
    task = make("locate_fine").with_channels((0,))
    regions = FoundRegions(boxes={"un_x.0": (FIRST, SECOND), "un_y.0": ()})
    write_json(task.fold_folder / REGIONS_PHASE / REGIONS, regions)
    opinion(task, tmp_path / "pseudo")
    found = _labels(task, task.stages[-1], tmp_path / "pseudo")
    assert Opinion.calls == [(1, 12, 18, 9), (1, 15, 21, 10), (1, *SHAPE)]
    expected = np.zeros(SHAPE, int)
    hu = _hounsfield(0)
    for box in (FIRST, SECOND):
        part = hu[(slice(None), *box_slices(box))]
        expected[box_slices(box)] = _expected(_opinion_of(part), part)[0]
    assert (found["un_x"] == expected).mean() > 0.998
    outside = np.ones(SHAPE, bool)
    for box in (FIRST, SECOND):
        outside[box_slices(box)] = False
    assert not found["un_x"][outside].any()
    assert (_expected(_opinion_of(hu), hu)[0][outside] > 0).any()
    whole = _expected(_opinion_of(_hounsfield(1)), _hounsfield(1))[0]
    assert (found["un_y"] == whole).mean() > 0.998


def test_a_stage_of_whole_scans_asks_for_no_regions(
    make: Make, opinion: Callable, tmp_path: Path
) -> None:
    opinion(make().with_channels((0,)), tmp_path / "pseudo")
    assert Opinion.calls == [(1, *SHAPE)] * 2


# --- killed and run again


def test_what_a_killed_run_labelled_is_kept(
    make: Make, opinion: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make().with_channels((0,))
    opinion(task, tmp_path / "uninterrupted")
    folder = tmp_path / "pseudo"
    real = pseudo_labels.relabel

    def killed(item: ItemArrays, *given: Any) -> None:
        if item.case == "un_y":
            raise KeyboardInterrupt
        real(item, *given)

    monkeypatch.setattr(pseudo_labels, "relabel", killed)
    with pytest.raises(KeyboardInterrupt):
        opinion(task, folder)
    monkeypatch.setattr(pseudo_labels, "relabel", real)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name.split(".")[0] for path in before} == {"un_x"}
    Opinion.calls.clear()
    opinion(task, folder)
    assert len(Opinion.calls) == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    first, second = (
        _labels(task, task.stages[-1], tmp_path / n) for n in ("uninterrupted", "pseudo")
    )
    for case in NAMES:
        np.testing.assert_array_equal(first[case], second[case])


def test_labels_without_their_last_file_are_made_again(
    make: Make, opinion: Callable, tmp_path: Path
) -> None:
    task = make().with_channels((0,))
    folder = tmp_path / "pseudo"
    opinion(task, folder)
    (folder / "un_x.0.json").unlink()
    (folder / "un_x.0.labels.b2nd").write_bytes(b"half of it")
    Opinion.calls.clear()
    opinion(task, folder)
    assert len(Opinion.calls) == 1
    assert _labels(task, task.stages[-1], folder)["un_x"].any()


def test_no_other_image_is_opened(
    make: Make, opinion: Callable, tmp_path: Path, opened: set[str]
) -> None:
    opinion(make(withheld=("un_y",), unlabelled=("un_x",)).with_channels((0,)), tmp_path / "p")
    assert opened == {"whole/un_x.0.image"}
