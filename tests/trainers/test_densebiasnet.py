"""DPA-DenseBiasNet: the paper's settings, its phases with and without priors, frozen and resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from renalplan.errors import UsageError
from renalplan.model_folder import FINISHED, WEIGHTS, ModelFolder, NetworkSpec, build_network
from renalplan.networks.autoencoder import Autoencoder
from renalplan.networks.densebiasnet import DenseBiasNet as Network
from renalplan.trainers.autoencoder import NAME, DenoisingAutoencoder
from renalplan.trainers.densebiasnet import (
    DenseBiasNet,
    DenseBiasNetSettings,
    SegmentationWithPriors,
)
from renalplan.trainers.loop import step_seed
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.sampling import PatchSource
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.supervised import Recipe, SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import open_or_create
from renalplan.trainers.unlabelled import REGIONS_PHASE, ImageSource, read_regions

Make = Callable[..., TrainingTask]
Add = Callable[..., None]
SHORT = [
    "epochs=2",
    "iterations=1",
    "validation_iterations=0",
    "learning_rate=1e-2",
    "autoencoder.epochs=1",
    "autoencoder.iterations=1",
    "earlier.epochs=1",
    "earlier.iterations=1",
    "earlier.validation_iterations=0",
]
WARNING = "no unlabelled images (imagesUn)"


def _trainer(task: TrainingTask, *settings: str) -> DenseBiasNet:
    return DenseBiasNet(task, parse_settings(DenseBiasNetSettings, list(settings)))


@pytest.fixture
def task(make_task: Make, add_unlabelled: Add) -> TrainingTask:
    """One stage, one unlabelled case."""
    add_unlabelled("un_x")
    return make_task(unlabelled=("un_x",))


# --- what the paper says


def test_the_papers_settings_are_the_defaults() -> None:
    found = DenseBiasNetSettings()
    assert (found.epochs, found.iterations, found.batch_size) == (200, 200, 1)
    assert (found.optimizer, found.learning_rate, found.weight_decay) == ("adam", 1e-4, 0)
    assert (found.schedule, found.time_decay) == ("time", 1e-5)
    assert (found.loss.name, found.loss.threshold) == ("hra_ce", 0.1)
    spatial = found.augmentation
    assert (spatial.rotation_probability, spatial.rotation_degrees) == (1, 10)
    assert (spatial.scaling_probability, spatial.intensity, spatial.mirror) == (0, False, True)
    assert (found.bias_maps, found.priors, found.checkpointing) == (4, "auto", False)
    prior = found.autoencoder
    assert (prior.epochs, prior.iterations, prior.batch_size) == (200, 200, 1)
    assert (prior.learning_rate, prior.time_decay, prior.dropout) == (1e-4, 1e-5, 0.2)
    assert found.earlier == Recipe()


def test_adam_divides_its_rate_by_time(task: TrainingTask) -> None:
    *_, phase = _trainer(task).phases()
    assert isinstance(phase, SegmentationWithPriors)
    optimizer = phase.optimizer(phase.build())
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0)
    assert phase.rate(0, 40_000) == 1
    assert phase.rate(40_000, 40_000) == pytest.approx(1 / 1.4)  # at the paper's very end


@pytest.mark.parametrize(
    ("text", "value", "maps"), [("2", 2, 2), ("0.1r", "0.1r", 1), (" 4", 4, 4), ("0.5r", "0.5r", 8)]
)
def test_bias_maps_from_the_command_line(
    task: TrainingTask, text: str, value: int | str, maps: int
) -> None:
    trainer = _trainer(task, f"bias_maps={text}", "priors=false")
    assert trainer.settings.bias_maps == value
    (phase,) = trainer.phases()
    assert isinstance(phase, SegmentationWithPriors)
    assert phase.network.arguments["bias_maps"] == value
    network = phase.build()
    assert isinstance(network, Network)
    assert network.compress[0].out_channels == maps  # of 16 channels


@pytest.mark.parametrize("text", ["0", "abc", "-1", "1.5r", "2.0", "²", ""])
def test_bias_maps_that_are_neither_count_nor_share_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--set bias_maps=.*whole number of at least 1, or a sha"):
        parse_settings(DenseBiasNetSettings, [f"bias_maps={text}"])


@pytest.mark.parametrize("text", ["True", "yes", "1"])
def test_priors_are_auto_true_or_false(text: str) -> None:
    with pytest.raises(UsageError, match="'auto', 'true' or 'false'"):
        parse_settings(DenseBiasNetSettings, [f"priors={text}"])


# --- phases


def test_with_an_unlabelled_image_the_autoencoder_comes_first(task: TrainingTask) -> None:
    trainer = _trainer(task, "autoencoder.dropout=0.3", "bias_maps=2", "checkpointing=true")
    first, second = trainer.phases()
    assert (first.name, second.name) == (NAME, "whole")
    assert isinstance(first, DenoisingAutoencoder)
    assert type(second) is SegmentationWithPriors
    assert trainer.record("DenseBiasNet").networks == {
        NAME: NetworkSpec(
            factory="renalplan.networks.autoencoder:Autoencoder",
            arguments={"in_channels": 1, "widths": [16, 32, 64, 128], "dropout": 0.3},
        ),
        "whole": NetworkSpec(
            factory="renalplan.networks.densebiasnet:DenseBiasNet",
            arguments={
                "in_channels": 1,
                "num_classes": 3,
                "bias_maps": 2,
                "checkpointing": True,
                "priors": [16, 32, 64, 128],
                "prior_channels": 1,
            },
        ),
    }
    assert trainer.segmenter().arguments == {"stages": {"whole": "whole"}}


@pytest.mark.parametrize("unlabelled", [(), ("un_x",)])
@pytest.mark.parametrize("priors", ["auto", "true", "false"])
def test_the_autoencoder_is_trained_if_asked_for_or_if_there_are_images(
    task: TrainingTask,
    priors: str,
    unlabelled: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = replace(task, unlabelled=unlabelled)
    trainer = _trainer(task, f"priors={priors}")
    expected = priors == "true" or (priors == "auto" and unlabelled != ())
    assert [p.name for p in trainer.phases()] == ([NAME, "whole"] if expected else ["whole"])
    arguments = trainer.record("x").networks["whole"].arguments
    assert ("priors" in arguments, "prior_channels" in arguments) == (expected, expected)
    monkeypatch.setattr(TrainedNetwork, "run", lambda *_: None)
    trainer.run()
    assert (WARNING in caplog.text) == (priors == "auto" and not unlabelled)


def test_the_warning_says_what_to_do(make_task: Make, caplog: pytest.LogCaptureFixture) -> None:
    _trainer(make_task(), *SHORT).run()
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert WARNING in warning.getMessage()
    assert "--set priors=true" in warning.getMessage()


def test_all_folds_have_the_same_networks_whoever_is_held_out(task: TrainingTask) -> None:
    """The only unlabelled scan is of a patient that one fold holds out: that one does not see it."""
    first = _trainer(task)
    model = open_or_create(task.model.path, first, "DenseBiasNet")
    other = _trainer(replace(task, unlabelled=(), withheld=("un_x",), fold_name="1"))
    assert open_or_create(task.model.path, other, "DenseBiasNet") == model
    autoencoder, _ = other.phases()
    assert isinstance(autoencoder, DenoisingAutoencoder)
    source = autoencoder.training_batches(other.task)
    assert isinstance(source, ImageSource)
    assert {item.case for item in source.items} == {"case_a", "case_b"}


def test_regions_of_unlabelled_scans_are_found_where_the_stage_sees_regions(
    make_task: Make, add_unlabelled: Add
) -> None:
    add_unlabelled("un_x")

    def names(*settings: str, **values: Any) -> list[str]:
        return [p.name for p in _trainer(make_task("locate_fine", **values), *settings).phases()]

    assert names(unlabelled=("un_x",)) == ["locate", REGIONS_PHASE, NAME, "fine"]
    assert names("priors=true") == ["locate", NAME, "fine"]
    assert names("priors=false", unlabelled=("un_x",)) == ["locate", "fine"]
    assert names() == ["locate", "fine"]


@pytest.mark.parametrize("configuration", ["locate_fine", "cascade"])
def test_earlier_stages_are_the_plans_own_network_with_settings_of_their_own(
    make_task: Make, configuration: str
) -> None:
    task = make_task(configuration)
    trainer = _trainer(task, "earlier.epochs=7", "earlier.optimizer=adamw", "epochs=3")
    first = trainer.phases()[0]
    stage = task.stages[0]
    assert type(first) is SupervisedStage
    assert (first.name, first.epochs) == (stage.name, 7)
    assert first.network == trainer.network_of(stage)
    assert first.network.factory == "renalplan.networks.unet:UNet"
    assert isinstance(first.optimizer(nn.Linear(1, 1)), torch.optim.AdamW)
    assert first.rate(1, 2) == pytest.approx(0.5**0.9)
    assert first.settings.loss.name == "dice_ce"
    assert trainer.phases()[-1].epochs == 3  # type: ignore[attr-defined]


def test_in_a_cascade_the_autoencoder_sees_the_image_alone(
    make_task: Make, add_unlabelled: Add
) -> None:
    add_unlabelled("un_x")
    task = make_task("cascade", unlabelled=("un_x",))
    trainer = _trainer(task, *SHORT)
    assert [p.name for p in trainer.phases()] == ["lowres", "before_fullres", NAME, "fullres"]
    networks = trainer.record("x").networks
    assert networks[NAME].arguments["in_channels"] == 1
    fullres = networks["fullres"].arguments
    assert (fullres["in_channels"], fullres["prior_channels"]) == (3, 1)  # image, two structures
    trainer.run()
    assert (task.fold_folder / FINISHED).is_file()
    autoencoder = trainer.phases()[2]
    assert isinstance(autoencoder, DenoisingAutoencoder)
    assert autoencoder.training_batches(task).batch(0)["image"].shape == (1, 1, 8, 8, 8)


def test_patch_and_augmentation_are_the_segmentations_own(task: TrainingTask) -> None:
    """One geometry for both networks: what the encoder learns is what it will be shown."""
    trainer = _trainer(task, "patch_size=8,16,16")
    autoencoder, segmentation = trainer.phases()
    assert isinstance(autoencoder, DenoisingAutoencoder)
    assert isinstance(segmentation, SegmentationWithPriors)
    images = autoencoder.training_batches(task)
    patches = segmentation.training_batches(task)
    assert isinstance(images, ImageSource)
    assert isinstance(patches, PatchSource)
    assert images.patch == patches.patch == (8, 16, 16)
    assert images.margin == patches.margin
    assert images.seed == patches.seed


# --- shapes


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("12,8,8", r"first 12 \(nearest 8 or 16\)"),
        ("8,8,4", r"third 4 \(nearest 8\)"),
        ("8,20,8", r"second 20 \(nearest 16 or 24\)"),
    ],
)
def test_patches_that_cannot_be_pooled_three_times_are_refused(
    task: TrainingTask, size: str, message: str
) -> None:
    with pytest.raises(UsageError, match=rf"DenseBiasNet: .*{message}.*--set patch_size"):
        _trainer(task, f"patch_size={size}").check()
    assert not task.model.path.exists()


@pytest.mark.parametrize("size", ["8,8,8", "8x16x24", "64,152,152"])
def test_any_other_patch_is_taken(task: TrainingTask, size: str) -> None:
    _trainer(task, f"patch_size={size}").check()


# --- trained


@pytest.mark.parametrize(("priors", "unlabelled"), [("auto", ("un_x",)), ("true", ())])
def test_the_segmentation_network_holds_the_trained_encoder_frozen(
    task: TrainingTask, priors: str, unlabelled: tuple[str, ...]
) -> None:
    task = replace(task, unlabelled=unlabelled)
    trainer = _trainer(task, f"priors={priors}", *SHORT)
    trainer.run()
    learnt = load_file(task.fold_folder / NAME / WEIGHTS)
    found = load_file(task.fold_folder / "whole" / WEIGHTS)
    encoder = {k.removeprefix("encoder."): v for k, v in learnt.items() if k.startswith("encoder.")}
    prior = {
        k.removeprefix("prior_encoder."): v
        for k, v in found.items()
        if k.startswith("prior_encoder.")
    }
    assert encoder.keys() == prior.keys()
    assert len(encoder) == 4 * 2 * 4
    assert all(torch.equal(encoder[name], prior[name]) for name in encoder)
    # the encoder was trained at all
    denoising = trainer.phases()[0]
    assert isinstance(denoising, DenoisingAutoencoder)
    torch.manual_seed(step_seed(denoising, -1))
    fresh = Autoencoder(1).encoder.state_dict()
    assert not [name for name in fresh if torch.equal(fresh[name], encoder[name])]
    assert (task.fold_folder / FINISHED).is_file()


def test_the_optimizer_holds_what_is_trained_and_nothing_frozen(task: TrainingTask) -> None:
    autoencoder, segmentation = _trainer(task).phases()
    assert isinstance(segmentation, SegmentationWithPriors)
    network = segmentation.build()
    assert isinstance(network, Network)
    held = {
        id(p) for group in segmentation.optimizer(network).param_groups for p in group["params"]
    }
    named = dict(network.named_parameters())
    assert {name for name, p in named.items() if id(p) not in held} == {
        name for name in named if name.startswith("prior_encoder.")
    }
    assert isinstance(autoencoder, DenoisingAutoencoder)
    whole = autoencoder.build()
    (group,) = autoencoder.optimizer(whole).param_groups
    assert len(group["params"]) == len(list(whole.parameters()))


def test_training_moves_everything_but_the_prior_encoder(task: TrainingTask) -> None:
    trainer = _trainer(task, *SHORT)
    trainer.run()
    _, segmentation = trainer.phases()
    assert isinstance(segmentation, SegmentationWithPriors)
    found = load_file(task.fold_folder / "whole" / WEIGHTS)
    built = build_network(segmentation.network, "test")
    built.load_state_dict(found)  # reloads without the autoencoder's file
    torch.manual_seed(step_seed(segmentation, -1))
    start = segmentation.build().state_dict()
    still = {name for name in start if torch.equal(start[name], found[name])}
    # idle since Eq. 1 has no layer that reads them: the compressions of the last two layers
    assert {name.rpartition(".")[0] for name in still} <= {"compress.12", "compress.13"}
    assert not built.prior_encoder.training  # type: ignore[union-attr]


def test_held_out_cases_and_labels_of_no_use_are_never_opened(
    make_task: Make, add_unlabelled: Add, opened: set[str]
) -> None:
    for case in ("un_x", "un_held"):
        add_unlabelled(case)
    task = make_task("locate_fine", unlabelled=("un_x",), withheld=("un_held",))
    _trainer(task, *SHORT, "autoencoder.iterations=12").run()
    cases = {name.split("/")[1].split(".")[0] for name in opened}
    assert cases == {"case_a", "case_b", "un_x"}
    assert not [name for name in opened if "un_x" in name and "labels" in name]
    (boxes,) = read_regions(task.fold_folder / REGIONS_PHASE).items()
    assert boxes[0] == "un_x.0"


@pytest.mark.parametrize("configuration", ["whole", "locate_fine"])
def test_stopped_while_it_segments_it_goes_on_there_and_ends_the_same(
    make_task: Make,
    add_unlabelled: Add,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    configuration: str,
) -> None:
    add_unlabelled("un_x")
    task = make_task(configuration, unlabelled=("un_x",))
    last = task.stages[-1].name
    _trainer(task, *SHORT).run()

    other = replace(task, model=ModelFolder(tmp_path / "stopped"))
    real = SegmentationWithPriors.loss

    def loss(self: Any, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if step == 1:
            raise KeyboardInterrupt
        return real(self, network, batch, step)

    monkeypatch.setattr(SegmentationWithPriors, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        _trainer(other, *SHORT).run()
    monkeypatch.undo()
    folder = other.fold_folder
    assert (folder / last / "checkpoint.pt").is_file()
    assert not (folder / last / WEIGHTS).exists()
    # nothing before is done again: it could not be, without the stores of its cases
    before = {p: p.stat().st_mtime_ns for p in folder.glob(f"*/{WEIGHTS}")}
    before |= {p: p.stat().st_mtime_ns for p in folder.glob(f"{REGIONS_PHASE}/*")}
    assert (folder / NAME / WEIGHTS) in before
    for path in task.stores.glob("*/un_x.*"):
        path.unlink()
    _trainer(other, *SHORT).run()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    for path in task.fold_folder.glob(f"*/{WEIGHTS}"):
        assert (folder / path.parent.name / WEIGHTS).read_bytes() == path.read_bytes()
    assert not list(folder.rglob("checkpoint.pt"))


def test_stopped_while_it_learns_the_prior_it_ends_the_same(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [*SHORT, "autoencoder.epochs=2"]
    _trainer(task, *short).run()
    other = replace(task, model=ModelFolder(tmp_path / "stopped"))
    real = DenoisingAutoencoder.loss

    def loss(self: Any, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if step == 1:
            raise KeyboardInterrupt
        return real(self, network, batch, step)

    monkeypatch.setattr(DenoisingAutoencoder, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        _trainer(other, *short).run()
    monkeypatch.undo()
    assert (other.fold_folder / NAME / "checkpoint.pt").is_file()
    assert not (other.fold_folder / "whole").exists()
    _trainer(other, *short).run()
    for name in (NAME, "whole"):
        expected = (task.fold_folder / name / WEIGHTS).read_bytes()
        assert (other.fold_folder / name / WEIGHTS).read_bytes() == expected


def test_the_number_of_workers_does_not_change_the_weights(
    task: TrainingTask, tmp_path: Path
) -> None:
    _trainer(task, *SHORT).run()
    hardware = replace(task.hardware, workers=1)
    other = replace(task, model=ModelFolder(tmp_path / "other"), hardware=hardware)
    _trainer(other, *SHORT).run()
    for name in (NAME, "whole"):
        expected = (task.fold_folder / name / WEIGHTS).read_bytes()
        assert (other.fold_folder / name / WEIGHTS).read_bytes() == expected


def test_images_that_have_come_since_need_another_model(task: TrainingTask) -> None:
    settings = ["epochs=1"]
    before = _trainer(replace(task, unlabelled=()), *settings)
    open_or_create(task.model.path, before, "DenseBiasNet")
    with pytest.raises(UsageError, match=r"other networks.*--name"):
        open_or_create(task.model.path, _trainer(task, *settings), "DenseBiasNet")
    same = _trainer(task, *settings, "priors=false")
    with pytest.raises(UsageError, match="priors was auto, is false"):
        open_or_create(task.model.path, same, "DenseBiasNet")
