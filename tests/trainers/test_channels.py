"""Networks that see only some of the stored channels: the setting, the task, and what is trained."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from renalplan.dataset import DatasetDescription
from renalplan.errors import UsageError
from renalplan.geometry import whole_box
from renalplan.model_folder import ModelFolder
from renalplan.plan import ChannelPlan, Intensities
from renalplan.store import ItemArrays, StoredCase, write_case, write_item
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.settings import TrainerSettings, parse_settings
from renalplan.trainers.supervised import SupervisedSettings
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import open_or_create
from renalplan.trainers.unet import UNet

SHAPE = (12, 10, 8)
NAMES = ("CTA", "CTU", "late")


def _channel(name: str, mean: float) -> ChannelPlan:
    known = dict.fromkeys(
        ("minimum", "maximum", "median", "percentile_00_5", "percentile_99_5"), mean
    )
    return ChannelPlan(
        name=name, normalisation="ct", intensities=Intensities(mean=mean, std=10, **known)
    )


CHANNELS = tuple(_channel(name, 100.0 * n) for n, name in enumerate(NAMES))


def _image(seed: int) -> NDArray[np.float32]:
    """Channel n lies around 10 n."""
    noise = np.random.default_rng(seed).normal(0, 1, (3, *SHAPE))
    return (noise + 10 * np.arange(3).reshape(-1, 1, 1, 1)).astype(np.float32)


@pytest.fixture
def description() -> DatasetDescription:
    return DatasetDescription(
        channel_names={str(n): name for n, name in enumerate(NAMES)},
        labels={"background": 0, "kidney": 1, "tumour": 2},
    )


@pytest.fixture(scope="module")
def made() -> list[TrainingTask]:
    """The task, so that its stores are written once; no test changes them."""
    return []


@pytest.fixture
def task(request: pytest.FixtureRequest, made: list[TrainingTask], tmp_path: Path) -> TrainingTask:
    """Three stored channels; cases a and b are trained on, c is held out, un_x has no labels."""
    if not made:
        plain = request.getfixturevalue("make_task")()
        plan = plain.plan.model_copy(update={"channels": CHANNELS})
        made.append(replace(plain, plan=plan, unlabelled=("un_x",)))
        _write_stores(made[0])
    return replace(made[0], model=ModelFolder(tmp_path / "model"))


def _write_stores(task: TrainingTask) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 3:6, 2:6], labels[3:9, 6:8, 2:6] = 1, 2
    folder = task.stores / "whole"
    for number, case in enumerate(("case_a", "case_b", "case_c", "un_x")):
        of_case = None if case == "un_x" else labels
        item = write_item(
            folder, f"{case}.0", _image(number), of_case, whole_box(SHAPE), task.scheme
        )
        known: dict[str, Any] = {"patient": case, "inputs": "-", "recipe": "-"}
        write_case(folder, StoredCase(case=case, spacing=(2.0,) * 3, items=(item,), **known))


# --- the setting


@pytest.mark.parametrize(
    ("text", "expected"), [("0", (0,)), ("0,1", (0, 1)), ("2, 0", (2, 0)), ("none", None)]
)
@pytest.mark.parametrize("kind", [TrainerSettings, SupervisedSettings])
def test_channels_are_numbers_in_one_word(
    kind: type[TrainerSettings], text: str, expected: tuple[int, ...] | None
) -> None:
    found = parse_settings(kind, [f"channels={text}"])
    assert found.channels == expected
    assert kind.model_validate(found.model_dump(mode="json")) == found


def test_all_channels_are_seen_if_nothing_is_said() -> None:
    assert SupervisedSettings().channels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "different numbers from 0, such as 0 or 0,1"),
        ("0,0", "different numbers from 0"),
        ("1,-2", "different numbers from 0"),
        ("CTA", "valid integer"),
        ("0,", "valid integer"),
        ("", "valid integer"),
        ("0.5", "valid integer"),
    ],
)
def test_other_words_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--set channels.*{message}"):
        parse_settings(SupervisedSettings, [f"channels={text}"])


def test_no_channel_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        SupervisedSettings(channels=())


# --- the task


@pytest.mark.parametrize("wanted", [(0,), (2,), (0, 2), (2, 1), (1, 0, 2)])
def test_plan_description_and_store_are_restricted_together(
    task: TrainingTask, wanted: tuple[int, ...]
) -> None:
    found = task.with_channels(wanted)
    assert found.plan.channels == tuple(CHANNELS[n] for n in wanted)
    assert found.description.channels == tuple(NAMES[n] for n in wanted)
    assert found.stored_channels == CHANNELS
    assert found.plan.stages == task.plan.stages
    (stage,) = found.stages
    for number, items in enumerate(
        (found.training_items(stage), found.held_out_items(stage), found.unlabelled_items(stage))
    ):
        item = items[0]
        stored = np.asarray(item.image[:], np.float32)[list(wanted)]
        np.testing.assert_array_equal(item.whole_image(), stored)
        expected = _image((0, 2, 3)[number])[list(wanted)]
        np.testing.assert_allclose(item.whole_image(), expected, rtol=1e-3, atol=1e-3)
    assert task.plan.channels == CHANNELS, "the task itself is as it was"
    assert task.training_items(stage)[0].whole_image().shape == (3, *SHAPE)


@pytest.mark.parametrize("wanted", [None, (0, 1, 2)])
def test_all_channels_in_their_order_change_nothing(
    task: TrainingTask, wanted: tuple[int, ...] | None
) -> None:
    assert task.with_channels(wanted) is task


@pytest.mark.parametrize("wanted", [(3,), (0, 7)])
def test_an_unknown_channel_is_refused_with_those_there_are(
    task: TrainingTask, wanted: tuple[int, ...]
) -> None:
    asked = ",".join(map(str, wanted))
    with pytest.raises(UsageError) as caught:
        task.with_channels(wanted)
    assert str(caught.value) == (
        f"--set channels={asked}: the channels of this dataset are 0 (CTA), 1 (CTU), 2 (late)."
    )
    with pytest.raises(UsageError, match="the channels of this dataset are"):
        UNet(task, parse_settings(UNet.Settings, [f"channels={asked}"]))


# --- stored items


def test_patches_hold_the_chosen_channels_in_order(task: TrainingTask) -> None:
    item = task.training_items(task.stages[0])[0]
    start, size = (-2, 3, 4), (6, 5, 6)
    whole, labels = item.patch(start, size)
    chosen = pickle.loads(pickle.dumps(item.with_channels((2, 0))))
    image, same = chosen.patch(start, size)
    np.testing.assert_array_equal(image, whole[[2, 0]])
    np.testing.assert_array_equal(same, labels)
    np.testing.assert_array_equal(chosen.image_patch(start, size), whole[[2, 0]])
    assert image.dtype == np.float32


def test_channels_can_be_chosen_again(task: TrainingTask) -> None:
    """Numbers are always those of the store."""
    item = task.with_channels((2,)).training_items(task.stages[0])[0]
    assert isinstance(item, ItemArrays)
    np.testing.assert_array_equal(
        item.with_channels((1,)).whole_image()[0], np.asarray(item.image[1], np.float32)
    )
    assert item.with_channels(None).whole_image().shape == (3, *SHAPE)
    assert item.whole_image().shape == (1, *SHAPE)


# --- trained

SHORT = ["epochs=1", "iterations=1", "validation_iterations=1", "augmentation.enabled=false"]


@pytest.mark.parametrize(("text", "names"), [("0", ["CTA"]), ("2,1", ["late", "CTU"])])
def test_a_network_is_trained_on_what_it_will_be_shown(
    task: TrainingTask, text: str, names: list[str]
) -> None:
    trainer = UNet(task, parse_settings(UNet.Settings, [f"channels={text}", *SHORT]))
    model = ModelFolder.open(open_or_create(task.model.path, trainer, "UNet").path)
    assert model.record.networks["whole"].arguments["in_channels"] == len(names)
    assert [channel.name for channel in model.plan.channels] == names
    assert list(model.description.channels) == names
    trainer.run()
    network = model.load_network("whole", "0")
    with torch.no_grad():
        network(torch.zeros(1, len(names), 8, 8, 8))
    (stage,) = trainer.task.stages
    predict = ItemPredictor(trainer.task, stage, model.record.networks["whole"])
    (item,) = trainer.task.held_out_items(stage)
    assert predict(item).shape == SHAPE
    batch = trainer.phases()[0].training_batches(trainer.task).batch(0)  # type: ignore[attr-defined]
    assert batch["image"].shape == (2, len(names), 8, 8, 8)
    for place, name in enumerate(names):
        inside = batch["image"][:, place][batch["labels"][:, 0] > 0]
        assert float(inside.mean()) == pytest.approx(10 * NAMES.index(name), abs=1)


def test_another_choice_of_channels_is_another_model(task: TrainingTask) -> None:
    first = UNet(task, parse_settings(UNet.Settings, ["channels=0", *SHORT]))
    open_or_create(task.model.path, first, "UNet")
    second = UNet(task, parse_settings(UNet.Settings, ["channels=1", *SHORT]))
    with pytest.raises(UsageError, match="give the new model another name with --name"):
        open_or_create(task.model.path, second, "UNet")
