"""CPNet and PANet: the papers' settings, what stops pseudo labels, phases, rounds, kept prototypes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from renalplan.dataset import DatasetDescription
from renalplan.errors import TrainingError, UsageError
from renalplan.geometry import Grid, whole_box
from renalplan.images import Volume
from renalplan.inference.options import InferenceOptions
from renalplan.inference.segmenters.staged import StagedSegmenter
from renalplan.model_folder import FINISHED, WEIGHTS, ModelFolder
from renalplan.networks.fdfe import FDFE
from renalplan.networks.prototypes import PrototypeNetwork
from renalplan.plan import ChannelPlan, Intensities
from renalplan.store import StoredCase, write_case, write_item
from renalplan.trainers import cpnet, episodic
from renalplan.trainers.cpnet import CPNet, CPNetSettings
from renalplan.trainers.episodes import EpisodeSource
from renalplan.trainers.episodic import EpisodicStage, PrototypePhase
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.loop import step_seed
from renalplan.trainers.losses import LossSettings, build_voxel_loss
from renalplan.trainers.panet import PANet, PANetSettings
from renalplan.trainers.phase import ComputePhase, TrainedNetwork
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.supervised import Recipe, SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import open_or_create
from renalplan.trainers.unlabelled import REGIONS_PHASE

Make = Callable[..., TrainingTask]
LABELS = {"background": 0, "medulla": 1, "cortex": 2}
LABELLED = ("case_a", "case_b", "case_c")
UNLABELLED = ("un_x", "un_y")
SHORT = [
    "supervised_epochs=1",
    "epochs=2",
    "iterations=1",
    "validation_iterations=0",
    "rounds=2",
    "draws=2",
    "learning_rate=1e-2",
    "earlier.epochs=1",
    "earlier.iterations=1",
    "earlier.validation_iterations=0",
]
ROUNDS = [f"{name}_{n}" for n in (1, 2) for name in ("prototypes", "pseudo_labels", "episodes")]


def _channel(name: str, normalisation: Any = "ct", mean: float = 100.0) -> ChannelPlan:
    known = Intensities(
        mean=mean,
        std=mean / 2,
        minimum=-1000,
        maximum=2000,
        median=mean,
        percentile_00_5=-1000,
        percentile_99_5=2000,
    )
    return ChannelPlan(name=name, normalisation=normalisation, intensities=known)


CHANNELS = (_channel("CTA"), _channel("CTU", mean=200.0))


def _labels(number: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Two blocks of medulla in a block of cortex, a little different for every case."""
    z, y, x = (n // 6 for n in shape)
    labels = np.zeros(shape, np.uint8)
    labels[z : -z or None, y : -y - number % 2, x:-x] = 2
    labels[2 * z : -2 * z, 2 * y : 3 * y, 2 * x : -2 * x] = 1
    labels[2 * z : -2 * z, 4 * y : -y - 1, 2 * x : -2 * x] = 1
    return labels


def _image(number: int, labels: NDArray) -> NDArray[np.float32]:
    """CTA and CTU in HU, each normalised by its own numbers."""
    noise = np.random.default_rng(number).normal(0, 10, (2, *labels.shape))
    early, late = np.array([-80.0, 110, 230])[labels], np.array([-80.0, 140, 130])[labels]
    hu = np.stack([early, late]) + noise
    known = [channel.intensities for channel in CHANNELS]
    return np.stack([(h - k.mean) / k.std for h, k in zip(hu, known, strict=True)]).astype(
        np.float32
    )


@pytest.fixture
def description() -> DatasetDescription:
    return DatasetDescription(channel_names={"0": "CTA", "1": "CTU"}, labels=LABELS)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Small networks, of the same depth."""
    if "paper" not in request.node.name:
        monkeypatch.setattr(cpnet, "WIDTHS", (4, 4, 8, 8))
        monkeypatch.setattr(cpnet, "FEATURES", 8)


@pytest.fixture(scope="module")
def made() -> dict[str, TrainingTask]:
    """Tasks by configuration, so that stores are written once; no test changes them."""
    return {}


@pytest.fixture
def make(request: pytest.FixtureRequest, made: dict[str, TrainingTask], tmp_path: Path) -> Make:
    """A task of two phases: cases a and b are trained on, c is held out, two have no labels."""

    def build(configuration: str = "whole", **values: Any) -> TrainingTask:
        if configuration not in made:
            plain = request.getfixturevalue("make_task")(configuration)
            plan = plain.plan.model_copy(update={"channels": CHANNELS})
            made[configuration] = replace(plain, plan=plan)
            _write_stores(made[configuration])
        own = {"model": ModelFolder(tmp_path / "model"), "unlabelled": UNLABELLED}
        return replace(made[configuration], **(own | values))

    return build


def _write_stores(task: TrainingTask) -> None:
    for stage in task.stages:
        spacing = tuple(stage.spacing)
        shape = tuple(n // int(spacing[0] or 1) for n in (20, 24, 26))
        for number, case in enumerate((*LABELLED, *UNLABELLED)):
            labels = _labels(number, shape)
            items = tuple(
                write_item(
                    task.stores / stage.name,
                    f"{case}.{n}",
                    _image(number, labels),
                    labels if case in LABELLED else None,
                    whole_box(shape),
                    task.scheme,
                )
                for n in range(2 if stage.region == "kidney" and case in LABELLED else 1)
            )
            known: dict[str, Any] = {"patient": case, "inputs": "-", "recipe": "-"}
            known |= {"spacing": spacing, "items": items}
            write_case(task.stores / stage.name, StoredCase(case=case, **known))


@pytest.fixture
def task(make: Make) -> TrainingTask:
    return make()


def _trainer(task: TrainingTask, *settings: str, kind: type[CPNet] = CPNet) -> CPNet:
    return kind(task, parse_settings(kind.Settings, list(settings)))  # type: ignore[type-var]


def _phase(trainer: CPNet, name: str) -> Any:
    (found,) = [phase for phase in trainer.phases() if phase.name == name]
    return found


# --- what the papers say


def test_the_papers_settings_are_the_defaults(task: TrainingTask) -> None:
    found = CPNetSettings()
    assert found.supervised_epochs * found.iterations == 2_000
    assert found.epochs * found.iterations == 18_000
    assert (found.optimizer, found.learning_rate, found.schedule) == ("sgd", 1e-3, "constant")
    assert (found.momentum, found.nesterov, found.batch_size) == (0.9, False, 1)
    assert (found.theta, found.omega, found.reverse) == (0.1, 0.05, "soft")
    assert found.weight_decay == 5e-4  # PANet's
    assert found.channels == (0,)
    assert (found.fdfe, found.bwsm) == (True, "auto")
    assert (found.arterial, found.excretory) == (0, 1)
    assert (found.rounds, found.draws, found.foreground_share) == (3, 10, 1)
    assert found.earlier == Recipe()
    steps = [
        p.epochs * p.iterations for p in _trainer(task).phases() if isinstance(p, EpisodicStage)
    ]
    assert steps == [2_000, 6_000, 6_000, 6_000]


def test_the_papers_network(task: TrainingTask) -> None:
    *_, last = _trainer(task).phases()
    assert isinstance(last, PrototypePhase)
    assert last.network.arguments == {
        "in_channels": 1,
        "classes": 3,
        "draws": 10,
        "widths": [16, 32, 64, 128],
        "features": 32,
        "decoding": True,
    }


def test_sgd_keeps_its_rate(task: TrainingTask) -> None:
    for phase in _trainer(task).phases():
        if isinstance(phase, EpisodicStage):
            optimizer = phase.optimizer(nn.Linear(1, 1))
            assert type(optimizer) is torch.optim.SGD
            (group,) = optimizer.param_groups
            assert (group["lr"], group["momentum"], group["nesterov"]) == (1e-3, 0.9, False)
            assert group["weight_decay"] == 5e-4
            assert [phase.rate(step, 18_000) for step in (0, 17_999)] == [1, 1]


def test_panet_is_the_encoder_with_hard_labels_and_no_unlabelled_scans(task: TrainingTask) -> None:
    changed = {
        name
        for name, value in PANetSettings().model_dump().items()
        if value != CPNetSettings().model_dump()[name]
    }
    assert changed == {"fdfe", "bwsm", "reverse"}
    trainer = _trainer(task, *SHORT, kind=PANet)
    first, last = trainer.phases()
    assert (first.name, last.name) == ("supervised", "whole")
    assert isinstance(first, EpisodicStage)
    assert isinstance(last, PrototypePhase)
    assert first.reverse == "hard"
    assert first.epochs == 3
    network = first.build()
    assert isinstance(network, FDFE)
    assert (len(network.decoder), network.stride, network.features) == (0, 8, 8)
    assert last.network.arguments["decoding"] is False
    trainer.run()
    assert (task.fold_folder / FINISHED).is_file()


def test_panet_with_all_of_cpnets_parts_is_cpnet(task: TrainingTask) -> None:
    parts = ["fdfe=true", "bwsm=auto", "reverse=soft", *SHORT]
    first, second = _trainer(task, *parts, kind=PANet), _trainer(task, *SHORT)
    assert first.record("x").networks == second.record("x").networks


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("rounds=0", "greater than or equal to 1"),
        ("draws=0", "greater than or equal to 1"),
        ("theta=-1", "greater than or equal to 0"),
        ("omega=-0.1", "greater than or equal to 0"),
        ("bwsm=yes", "'auto', 'true' or 'false'"),
        ("reverse=none", "'soft' or 'hard'"),
        ("arterial=-1", "greater than or equal to 0"),
    ],
)
def test_settings_out_of_range_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_settings(CPNetSettings, [assignment])


# --- what can stop pseudo labels


def _with_labels(task: TrainingTask, **labels: Any) -> TrainingTask:
    values = {"labels": {"background": 0, **labels}}
    return replace(task, description=task.description.model_copy(update=values))


def _with_channels(task: TrainingTask, *channels: ChannelPlan) -> TrainingTask:
    names = {str(n): channel.name for n, channel in enumerate(channels)}
    return replace(
        task,
        plan=task.plan.model_copy(update={"channels": channels}),
        description=task.description.model_copy(update={"channel_names": names}),
    )


OBSTACLES: list[tuple[Callable[[TrainingTask], TrainingTask], list[str], str]] = [
    (
        lambda t: _with_channels(t, CHANNELS[0]),
        [],
        "the images have no channel 1, a second contrast phase (CTU)",
    ),
    (lambda t: t, ["excretory=2"], "the images have no channel 2, a second contrast phase (CTU)"),
    (
        lambda t: _with_channels(t, CHANNELS[0], _channel("MR", "zscore")),
        [],
        "the channel MR is not in HU, so phases cannot be compared",
    ),
    (
        lambda t: _with_channels(t, _channel("raw", "none"), CHANNELS[1]),
        [],
        "the channel raw is not in HU, so phases cannot be compared",
    ),
    (lambda t: t, ["excretory=0"], "arterial and excretory are the same channel"),
    (
        lambda t: _with_labels(t, medulla=1, rest=2),
        [],
        "the dataset has no label named cortex",
    ),
    (
        lambda t: _with_labels(t, cortex=1, pyramid=2),
        [],
        "the dataset has no label named medulla",
    ),
    (
        lambda t: replace(t, unlabelled=()),
        [],
        "there are no unlabelled images (imagesUn)",
    ),
]


@pytest.mark.parametrize(
    ("change", "settings", "sentence"), OBSTACLES, ids=[o[2] for o in OBSTACLES]
)
def test_every_obstacle_has_its_sentence(
    task: TrainingTask,
    change: Callable[[TrainingTask], TrainingTask],
    settings: list[str],
    sentence: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpnet.StagedTrainer, "run", lambda _: None)
    monkeypatch.setattr(EpisodicStage, "training_batches", lambda *_: None)
    changed = change(task)
    trainer = _trainer(changed, *settings)
    assert trainer.obstacle == sentence
    trainer.check()
    assert [p.name for p in trainer.phases()] == ["supervised", "whole"]
    trainer.run()
    assert f"{sentence}: training without pseudo labels (BWSM)" in caplog.text
    with pytest.raises(UsageError, match="--set bwsm=true: ") as caught:
        _trainer(changed, *settings, "bwsm=true").check()
    assert str(caught.value) == f"--set bwsm=true: {sentence}."
    caplog.clear()
    silent = _trainer(changed, *settings, "bwsm=false")
    silent.check()
    silent.run()
    assert caplog.text == ""


def test_nothing_stops_two_phases_with_unlabelled_scans(
    task: TrainingTask, caplog: pytest.LogCaptureFixture
) -> None:
    for settings in ([], ["bwsm=true"], ["channels=none"], ["channels=1"]):
        trainer = _trainer(task, *settings)
        trainer.check()
        assert trainer.obstacle is None
        assert trainer.with_pseudo_labels
    assert caplog.text == ""


def test_overlapping_regions_are_refused(task: TrainingTask) -> None:
    description = DatasetDescription(
        channel_names={"0": "CTA", "1": "CTU"},
        labels={"background": 0, "kidney": [1, 2], "cortex": 2},
        regions_class_order=[1, 2],
    )
    for kind in (CPNet, PANet):
        with pytest.raises(
            UsageError, match=f"{kind.__name__} compares voxels .*overlapping regio"
        ):
            _trainer(replace(task, description=description), kind=kind).check()


@pytest.mark.parametrize("settings", [("epochs=2",), ("rounds=4", "epochs=3")])
def test_every_round_of_pseudo_labels_needs_an_epoch(
    task: TrainingTask, settings: tuple[str, ...]
) -> None:
    rounds = {"epochs=2": 3}.get(settings[0], 4)
    with pytest.raises(
        UsageError, match=rf"--set rounds={rounds}: a round .*there are {rounds - 1}"
    ):
        _trainer(task, *settings).check()


def test_a_cascade_makes_no_pseudo_labels(task: TrainingTask) -> None:
    seen = task.plan.stages[-1].model_copy(
        update={"previous_as_channels": True, "previous": "locate"}
    )
    plan = task.plan.model_copy(update={"stages": (*task.plan.stages[:-1], seen)})
    configurations = {
        task.configuration: (*plan.configurations[task.configuration][:-1], seen.name)
    }
    own = replace(task, plan=plan.model_copy(update={"configurations": configurations}))
    trainer = _trainer(own)
    assert trainer.obstacle is not None
    assert "the plan is a cascade" in trainer.obstacle
    assert not trainer.with_pseudo_labels


@pytest.mark.parametrize(("omega", "refused"), [("0", False), ("0.66", False), ("0.7", True)])
def test_omega_must_leave_probabilities(task: TrainingTask, omega: str, refused: bool) -> None:
    trainer = _trainer(task, f"omega={omega}")
    if not refused:
        trainer.check()
        return
    with pytest.raises(UsageError, match=r"--set omega=0\.7: with 3 classes it is at most 1 - 1/3"):
        trainer.check()


@pytest.mark.parametrize("loss", ["ce", "hra_ce", "balanced_ce", "dice_ce"])
def test_any_voxel_wise_loss_compares(task: TrainingTask, loss: str) -> None:
    trainer = _trainer(task, *SHORT, f"loss.name={loss}")
    if loss == "dice_ce":
        with pytest.raises(
            UsageError, match=r"compares voxel by voxel: --set loss\.name=ce, the pa"
        ):
            trainer.check()
        return
    trainer.check()
    for name in ("supervised", "episodes_1"):
        phase = _phase(trainer, name)
        phase.prepare(trainer.task)
        assert type(phase.cycle.compare) is type(build_voxel_loss(LossSettings(name=loss)))  # type: ignore[arg-type]
    assert CPNetSettings().loss.name == "ce"


@pytest.mark.parametrize("size", ["12,8,8", "8,8,4"])
@pytest.mark.parametrize("kind", [CPNet, PANet])
def test_patches_that_cannot_be_pooled_are_refused(
    task: TrainingTask, size: str, kind: type[CPNet]
) -> None:
    with pytest.raises(UsageError, match=rf"{kind.__name__}: the patch of stage whole"):
        _trainer(task, f"patch_size={size}", kind=kind).check()


def test_a_structure_no_training_case_holds_stops_before_anything_is_trained(
    task: TrainingTask,
) -> None:
    trainer = _trainer(_with_labels(task, medulla=1, cortex=2, cyst=3), *SHORT)
    with pytest.raises(TrainingError, match="none of the fold's training cases holds cyst"):
        trainer.run()
    assert not task.fold_folder.exists()


# --- phases


def _names(task: TrainingTask, *settings: str) -> list[str]:
    return [phase.name for phase in _trainer(task, *SHORT, *settings).phases()]


def test_rounds_of_prototypes_pseudo_labels_and_episodes(task: TrainingTask) -> None:
    assert _names(task) == ["supervised", *ROUNDS, "whole"]
    assert _names(task, "bwsm=true", "rounds=1") == ["supervised", *ROUNDS[:3], "whole"]
    assert _names(task, "bwsm=false") == ["supervised", "whole"]
    kinds = [type(phase) for phase in _trainer(task, *SHORT).phases()]
    assert kinds == [
        EpisodicStage,
        *[PrototypePhase, ComputePhase, EpisodicStage] * 2,
        PrototypePhase,
    ]


def test_without_pseudo_labels_all_rounds_have_labelled_queries(task: TrainingTask) -> None:
    trainer = _trainer(task, "bwsm=false", "supervised_epochs=3", "epochs=4")
    first, last = trainer.phases()
    assert isinstance(first, EpisodicStage)
    assert isinstance(last, PrototypePhase)
    assert (first.epochs, first.theta, first.pseudo_labels) == (7, 1, None)
    assert last.source == "supervised"


@pytest.mark.parametrize("epochs", [3, 4, 5, 90])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_epochs_split_over_the_rounds_add_up(task: TrainingTask, epochs: int, rounds: int) -> None:
    trainer = _trainer(task, f"epochs={epochs}", f"rounds={rounds}")
    found = [p.epochs for p in trainer.phases() if isinstance(p, EpisodicStage)]
    assert found[0] == 10
    assert len(found) == rounds + 1
    assert sum(found[1:]) == epochs
    assert max(found[1:]) - min(found[1:]) <= 1


def test_every_round_goes_on_from_the_one_before(task: TrainingTask) -> None:
    trainer = _trainer(task, *SHORT, "theta=0.3")
    phases = {phase.name: phase for phase in trainer.phases()}
    start = "supervised"
    for number in (1, 2):
        prototypes, episodes = phases[f"prototypes_{number}"], phases[f"episodes_{number}"]
        assert isinstance(prototypes, PrototypePhase)
        assert isinstance(episodes, EpisodicStage)
        assert prototypes.source == episodes.start == start
        assert episodes.pseudo_labels == f"pseudo_labels_{number}"
        assert episodes.theta == 0.3
        start = f"episodes_{number}"
    first, last = phases["supervised"], phases["whole"]
    assert isinstance(first, EpisodicStage)
    assert isinstance(last, PrototypePhase)
    assert (first.start, first.pseudo_labels, first.theta) == (None, None, 1)
    assert last.source == start


def test_every_round_draws_other_episodes(task: TrainingTask) -> None:
    trainer = _trainer(task, *SHORT, "augmentation.enabled=false")
    seeds = [p.seed for p in trainer.phases() if isinstance(p, EpisodicStage)]
    assert len(set(seeds)) == 3
    other = _trainer(task, *SHORT, "seed=1")
    again = [p.seed for p in other.phases() if isinstance(p, EpisodicStage)]
    assert not set(seeds) & set(again)


def test_regions_of_unlabelled_scans_come_before_their_labels(make: Make) -> None:
    task = make("locate_fine")
    assert _names(task) == ["locate", "supervised", REGIONS_PHASE, *ROUNDS, "fine"]
    assert _names(task, "bwsm=false") == ["locate", "supervised", "fine"]
    withheld = replace(task, unlabelled=(), withheld=UNLABELLED)
    assert _names(withheld) == ["locate", "supervised", *ROUNDS, "fine"]
    first, *_ = _trainer(task, *SHORT).phases()
    assert type(first) is SupervisedStage
    assert first.network.factory == "renalplan.networks.unet:UNet"
    assert first.settings.loss.name == "dice_ce"


def test_earlier_stages_see_the_same_channels(make: Make) -> None:
    task = make("locate_fine")
    for settings, expected in (([], 1), (["channels=0,1"], 2)):
        networks = _trainer(task, *SHORT, *settings).record("x").networks
        found = {network.arguments["in_channels"] for network in networks.values()}
        assert found == {expected}


@pytest.mark.parametrize("configuration", ["whole", "locate_fine"])
def test_all_folds_have_the_same_networks_whoever_is_held_out(
    make: Make, configuration: str
) -> None:
    """All unlabelled scans are of patients that one fold holds out: that one does without."""
    task = make(configuration)
    model = open_or_create(task.model.path, _trainer(task, *SHORT), "CPNet")
    alone = replace(task, unlabelled=(), withheld=UNLABELLED, fold_name="1")
    other = _trainer(alone, *SHORT)
    other.check()
    assert open_or_create(task.model.path, other, "CPNet") == model
    episodes = _phase(other, "episodes_1")
    assert (episodes.theta, episodes.pseudo_labels) == (1, None)
    source = episodes.training_batches(other.task)
    assert {item.case for item in source.queries.items} == {"case_a", "case_b"}


def test_a_fold_without_unlabelled_scans_of_its_own_trains_to_its_end(
    make: Make, opened: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = make(unlabelled=(), withheld=UNLABELLED)
    _trainer(task, *SHORT).run()
    assert (task.fold_folder / FINISHED).is_file()
    assert {name.split("/")[1].split(".")[0] for name in opened} == {"case_a", "case_b"}
    assert "training without" not in caplog.text


# --- what episodes are made of


def _prepared(task: TrainingTask, *settings: str, name: str = "supervised") -> EpisodicStage:
    phase = _phase(_trainer(task, *SHORT, *settings), name)
    assert isinstance(phase, EpisodicStage)
    phase.prepare(task)
    return phase


def test_supervised_episodes_are_of_training_cases(task: TrainingTask) -> None:
    trainer = _trainer(task, *SHORT)
    source = _phase(trainer, "supervised").training_batches(trainer.task)
    assert isinstance(source, EpisodeSource)
    assert source.supports.structures == ("medulla", "cortex")
    for patches in (source.supports.patches, source.queries):
        assert {item.case for item in patches.items} == {"case_a", "case_b"}
        assert {item.channels for item in patches.items} == {(0,)}
    batch = source.batch(0)
    assert batch["support_image"].shape == (2, 1, 8, 8, 8)
    assert batch["image"].shape == (1, 1, 8, 8, 8)


def test_pseudo_labelled_episodes_have_unlabelled_queries(
    trained: CPNet, task: TrainingTask
) -> None:
    trainer = _trainer(task, *SHORT)
    for number in (1, 2):
        phase = _phase(trainer, f"episodes_{number}")
        source = phase.training_batches(trainer.task)
        assert {item.case for item in source.supports.patches.items} == {"case_a", "case_b"}
        assert {item.case for item in source.queries.items} == set(UNLABELLED)
        folders = {item.labels_in for item in source.queries.items}
        assert folders == {task.fold_folder / f"pseudo_labels_{number}"}
        assert {item.channels for item in source.queries.items} == {(0,)}


@pytest.mark.parametrize(
    ("name", "settings", "theta"),
    [
        ("supervised", [], 1.0),
        ("episodes_1", [], 0.1),
        ("episodes_2", ["theta=0.7"], 0.7),
        ("supervised", ["theta=0.7"], 1.0),
    ],
)
def test_theta_and_reverse_reach_the_loss(
    task: TrainingTask, name: str, settings: list[str], theta: float
) -> None:
    for reverse in ("soft", "hard"):
        phase = _prepared(task, *settings, f"reverse={reverse}", name=name)
        assert phase.cycle.theta == theta
        assert phase.cycle.reverse == reverse
        assert phase.cycle.margin == (8, 8, 8)  # 15 mm of 2 mm
        names = phase.cycle.encoder.scheme.names
        assert names == ("background", "medulla", "cortex")


def test_the_margin_is_fifteen_millimetres_along_each_axis() -> None:
    assert episodic.around((5.0, 0.7, 16.0)) == (3, 22, 1)


def test_held_out_cases_are_queries_of_validation_alone(task: TrainingTask) -> None:
    trainer = _trainer(task, *SHORT, "validation_iterations=2", "foreground_share=1")
    phase = _phase(trainer, "supervised")
    phase.prepare(trainer.task)
    source = phase.held_out_batches(trainer.task)
    assert {item.case for item in source.queries.items} == {"case_c"}
    assert {item.case for item in source.supports.patches.items} == {"case_a", "case_b"}
    figures = phase.validate(phase.build().eval(), trainer.task, torch.device("cpu"))
    assert set(figures) == {"dice_medulla", "dice_cortex"}
    assert all(0 <= value <= 1 for value in figures.values())


def test_validation_of_features_that_are_the_labels_is_perfect(task: TrainingTask) -> None:
    class Looks(nn.Module):
        """Far apart for CTA of fat, medulla and cortex: -80, 110 and 230 HU."""

        def forward(self, image: Tensor) -> Tensor:
            classes = (image > -1.5).long() + (image > 1.4).long()
            return nn.functional.one_hot(classes[:, 0], 3).movedim(-1, 1).float()

    plain = ["validation_iterations=4", "augmentation.enabled=false"]
    trainer = _trainer(task, *SHORT, *plain)
    phase = _phase(trainer, "supervised")
    phase.prepare(trainer.task)
    figures = phase.validate(Looks(), trainer.task, torch.device("cpu"))
    assert min(figures.values()) > 0.98
    batch = phase.training_batches(trainer.task).batch(0)
    assert phase.loss(Looks(), batch, 0) < 0.3


# --- trained


def _weights(task: TrainingTask, phase: str) -> dict[str, Tensor]:
    return load_file(task.fold_folder / phase / WEIGHTS)


def _start(phase: TrainedNetwork, task: TrainingTask) -> nn.Module:
    """The network as `fit` begins with it."""
    torch.manual_seed(step_seed(phase, -1))
    network = phase.build()
    phase.initialise(network)
    return network


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a trained model leaves it for the others."""
    return tmp_path_factory.mktemp("trained") / "model"


@pytest.fixture
def trained(task: TrainingTask, once: Path) -> CPNet:
    trainer = _trainer(task, *SHORT)
    if not once.exists():
        open_or_create(task.model.path, trainer, "CPNet")
        trainer.run()
        shutil.copytree(task.model.path, once)
    else:
        shutil.copytree(once, task.model.path)
    return trainer


def test_training_leaves_every_phase_and_begins_with_the_weights_before(trained: CPNet) -> None:
    task = trained.task
    folders = {path.name for path in task.fold_folder.iterdir() if path.is_dir()}
    assert folders == {"supervised", *ROUNDS, "whole"}
    before = "supervised"
    for number in (1, 2):
        phase = _phase(_trainer(task, *SHORT), f"episodes_{number}")
        phase.prepare(task)
        begun, ended = _start(phase, task).state_dict(), _weights(task, phase.name)
        earlier = _weights(task, before)
        assert all(torch.equal(begun[name], earlier[name]) for name in earlier)
        assert [name for name in ended if not torch.equal(ended[name], earlier[name])]
        moved = max(float((ended[name] - earlier[name]).abs().max()) for name in ended)
        assert moved < 0.2, "a step or two of 0.01 stay near"
        before = phase.name


def test_prototype_phases_hold_the_features_before_and_their_prototypes(trained: CPNet) -> None:
    task = trained.task
    for name, source in (
        ("prototypes_1", "supervised"),
        ("prototypes_2", "episodes_1"),
        ("whole", "episodes_2"),
    ):
        found = _weights(task, name)
        features = _weights(task, source)
        prefix = "extractor."
        kept = {n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix)}
        assert kept.keys() == features.keys()
        assert all(torch.equal(kept[n], features[n]) for n in kept)
        assert found["prototypes"].shape == (2, 3, 8)
        assert not torch.equal(found["prototypes"][0], found["prototypes"][1])
        assert found["prototypes"].abs().sum(2).all()


def test_kept_prototypes_are_the_means_of_support_patches(trained: CPNet) -> None:
    """Again from the patches that the seed says, with masks of labels and of what lies around."""
    task = trained.task
    phase = _phase(trained, "whole")
    network = phase.build()
    network.load_state_dict(_weights(task, "whole"))
    source = _phase(trained, "supervised").training_batches(task)
    patches = replace(source.supports.patches, transform=None, margin=(0, 0, 0), seed=trained.seed)
    supports = replace(source.supports, patches=patches)
    for draw in range(2):
        batch = supports.draw(draw)
        with torch.no_grad():
            features = network.eval().extractor(batch["support_image"])
        for value in (1, 2):
            mask = batch["support_labels"][value - 1, 0] == value
            expected = features[value - 1][:, mask].mean(1)
            found = network.prototypes[draw, value]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        around = [
            f[:, y[0] == 0].mean(1) for f, y in zip(features, batch["support_labels"], strict=True)
        ]
        if all((y == 0).any() for y in batch["support_labels"]):  # 15 mm are the whole patch
            expected = torch.stack(around).mean(0)
            torch.testing.assert_close(network.prototypes[draw, 0], expected, rtol=1e-3, atol=1e-3)


def test_prototypes_are_of_training_cases_alone(trained: CPNet, opened: set[str]) -> None:
    task = trained.task
    (task.fold_folder / "whole" / WEIGHTS).unlink()
    opened.clear()
    phase = _phase(_trainer(task, *SHORT, "draws=8"), "whole")
    phase.run(task)
    assert {name.split("/")[1].split(".")[0] for name in opened} == {"case_a", "case_b"}
    assert _weights(task, "whole")["prototypes"].shape == (8, 3, 8)


def test_held_out_cases_are_never_opened(make: Make, opened: set[str]) -> None:
    task = make(unlabelled=("un_x",), withheld=("un_y",))
    _trainer(task, *SHORT, "iterations=4").run()
    stored = {name for name in opened if name.startswith("whole/")}
    assert {name.split("/")[1].split(".")[0] for name in stored} == {"case_a", "case_b", "un_x"}
    assert not [name for name in stored if "un_x" in name and "labels" in name]
    made = {name for name in opened if name.startswith("pseudo_labels")}
    assert made == {f"pseudo_labels_{n}/un_x.0.labels" for n in (1, 2)}


def test_a_trained_model_predicts(trained: CPNet) -> None:
    task = trained.task
    model = ModelFolder.open(task.model.path)
    assert model.plan.channels == CHANNELS[:1]
    assert model.description.channels == ("CTA",)
    network = model.load_network("whole", "0")
    assert isinstance(network, PrototypeNetwork)
    with torch.no_grad():
        logits = network(torch.randn(2, 1, 8, 16, 8))
    assert logits.shape == (2, 3, 8, 16, 8)
    assert logits.abs().max() <= 20
    (stage,) = task.stages
    predict = ItemPredictor(task, stage, model.record.networks["whole"])
    (item,) = task.held_out_items(stage)
    found = predict(item)
    assert found.shape == item.item.shape
    assert set(np.unique(found)) <= {0, 1, 2}


def test_a_scan_of_the_arterial_phase_alone_is_segmented(trained: CPNet) -> None:
    model = ModelFolder.open(trained.task.model.path)
    arguments = model.record.segmenter.arguments
    assert arguments == {"stages": {"whole": "whole"}}
    segmenter = StagedSegmenter(
        model,
        ["0"],
        InferenceOptions(device="cpu", engine="torch", precision="fp32", step=1),
        **arguments,
    )
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid(size=(16, 16, 16), spacing=(2, 2, 2), origin=(0, 0, 0), direction=straight)
    array = np.random.default_rng(0).normal(100, 80, (1, 16, 16, 16)).astype(np.float32)
    volume = Volume(array=array, spacing=(2.0, 2.0, 2.0), grid=grid)
    labels = segmenter.segment(volume).labels(model.scheme)
    assert labels.shape == (16, 16, 16)
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_a_kidney_stage_trains_on_the_regions_found(make: Make) -> None:
    task = make("locate_fine")
    _trainer(task, *SHORT).run()
    assert (task.fold_folder / FINISHED).is_file()
    assert (task.fold_folder / REGIONS_PHASE / "regions.json").is_file()
    names = {path.name for path in (task.fold_folder / "pseudo_labels_2").glob("*.json")}
    assert names == {"un_x.0.json", "un_y.0.json"}
    assert _weights(task, "fine")["prototypes"].shape == (2, 3, 8)


def test_pseudo_labels_take_what_the_settings_say(
    task: TrainingTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cpnet, "make_pseudo_labels", lambda *given: seen.append(given))
    turned = _with_labels(task, cortex=1, medulla=2)
    trainer = _trainer(turned, *SHORT, "omega=0.2", "arterial=1", "excretory=0")
    for name in ("pseudo_labels_1", "pseudo_labels_2"):
        _phase(trainer, name).run(trainer.task)
    for number, (of, stage, network, phase, prior, folder) in enumerate(seen, start=1):
        assert of is trainer.task
        assert stage == trainer.stages[-1]
        assert network == _phase(trainer, f"prototypes_{number}").network
        assert phase == f"prototypes_{number}"
        assert (prior.arterial, prior.excretory, prior.omega) == (1, 0, 0.2)
        assert (prior.classes.cortex, prior.classes.medulla) == (1, 2)
        assert folder == task.fold_folder / f"pseudo_labels_{number}"
    assert len(seen) == 2


# --- killed and run again


@pytest.fixture
def twin(task: TrainingTask, tmp_path: Path, trained: CPNet) -> TrainingTask:
    """The same task with a model folder of its own, after another has been trained."""
    return replace(task, model=ModelFolder(tmp_path / "twin"))


def _assert_same(first: TrainingTask, second: TrainingTask) -> None:
    found = sorted(path.parent.name for path in first.fold_folder.glob(f"*/{WEIGHTS}"))
    assert len(found) == 6
    for name in found:
        expected = (first.fold_folder / name / WEIGHTS).read_bytes()
        assert (second.fold_folder / name / WEIGHTS).read_bytes() == expected


def test_two_runs_end_the_same_and_say_what_they_do(
    trained: CPNet, twin: TrainingTask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="renalplan"):
        _trainer(twin, *SHORT).run()
    _assert_same(trained.task, twin)
    assert (
        "supervised 1 x 1 steps, prototypes_1 2 draws, pseudo_labels_1, episodes_1" in caplog.text
    )
    assert "pseudo_labels_1: contrast phases changed" in caplog.text


def test_the_last_episodes_done_again_end_the_same(trained: CPNet, task: TrainingTask) -> None:
    names = ("episodes_2", "whole")
    before = {name: (task.fold_folder / name / WEIGHTS).read_bytes() for name in names}
    kept = {
        path: path.stat().st_mtime_ns
        for path in task.fold_folder.rglob("*.*")
        if path.parent.name not in names
    }
    for name in names:
        (task.fold_folder / name / WEIGHTS).unlink()
    _trainer(task, *SHORT).run()
    for name in names:
        assert (task.fold_folder / name / WEIGHTS).read_bytes() == before[name]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_stopped_within_a_round_it_goes_on_there_and_ends_the_same(
    trained: CPNet, twin: TrainingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EpisodicStage.loss

    def loss(self: Any, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if self.name == "episodes_2":
            raise KeyboardInterrupt
        return real(self, network, batch, step)

    monkeypatch.setattr(EpisodicStage, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        _trainer(twin, *SHORT).run()
    monkeypatch.undo()
    monkeypatch.setattr(cpnet, "WIDTHS", (4, 4, 8, 8))
    monkeypatch.setattr(cpnet, "FEATURES", 8)
    folder = twin.fold_folder
    before = {p: p.stat().st_mtime_ns for p in folder.glob(f"*/{WEIGHTS}")}
    before |= {p: p.stat().st_mtime_ns for p in folder.glob("pseudo_labels_*/*")}
    assert (folder / "pseudo_labels_2" / "done") in before
    assert (folder / "episodes_1" / WEIGHTS) in before
    _trainer(twin, *SHORT).run()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    _assert_same(trained.task, twin)
