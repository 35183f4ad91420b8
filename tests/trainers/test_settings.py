"""`--set name=value`: typed, nested, refused with the nearest name."""

from __future__ import annotations

import pytest

from renalplan.errors import UsageError
from renalplan.trainers.settings import flat_settings, parse_settings
from renalplan.trainers.supervised import SupervisedSettings


def test_values_take_the_type_of_their_setting() -> None:
    settings = parse_settings(
        SupervisedSettings, ["epochs=50", "learning_rate=1e-3", "augmentation.mirror=false"]
    )
    assert settings.epochs == 50
    assert settings.learning_rate == 1e-3
    assert settings.augmentation.mirror is False
    assert settings.augmentation.intensity is True  # its neighbours keep their defaults
    assert settings.iterations == 250


def test_none_unsets_what_may_be_unset() -> None:
    assert parse_settings(SupervisedSettings, ["batch_size=4"]).batch_size == 4
    assert parse_settings(SupervisedSettings, ["batch_size=none"]).batch_size is None


@pytest.mark.parametrize("text", ["8,16,24", "8x16x24", "8, 16, 24"])
def test_a_patch_size_is_three_numbers_in_one_word(text: str) -> None:
    assert parse_settings(SupervisedSettings, [f"patch_size={text}"]).patch_size == (8, 16, 24)


def test_a_patch_size_can_be_left_to_the_plan() -> None:
    assert SupervisedSettings().patch_size is None
    assert parse_settings(SupervisedSettings, ["patch_size=none"]).patch_size is None


def test_settings_come_back_from_a_trainers_record() -> None:
    settings = parse_settings(SupervisedSettings, ["patch_size=8,16,24", "loss.name=hra_ce"])
    assert SupervisedSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_the_last_of_two_assignments_counts() -> None:
    assert parse_settings(SupervisedSettings, ["epochs=2", "epochs=3"]).epochs == 3


def test_nothing_set_means_the_defaults() -> None:
    assert parse_settings(SupervisedSettings, []) == SupervisedSettings()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "--set epochs: needs the form name=value"),
        ("epoch=3", "there is no such setting; did you mean epochs"),
        ("augmentation.miror=1", r"did you mean augmentation\.mirror"),
        ("mirror=false", r"no such setting; .*augmentation\.mirror"),
        ("augmentation=1", "no such setting"),
        ("xyzzy=3", "settings are .*epochs.*augmentation.enabled"),
        ("epochs=many", "--set epochs=many: .*valid integer"),
        ("epochs=2.5", "--set epochs=2.5: .*valid integer"),
        ("epochs=0", "--set epochs=0: .*greater than or equal to 1"),
        ("momentum=1", "--set momentum=1: .*less than 1"),
        ("learning_rate=0", "--set learning_rate=0: .*greater than 0"),
        ("learning_rate=nan", "--set learning_rate=nan"),
        ("learning_rate=inf", "--set learning_rate=inf"),
        ("augmentation.mirror=perhaps", r"--set augmentation\.mirror=perhaps: .*valid boolean"),
        ("epochs=none", "--set epochs=None"),
        ("optimizer=lion", "--set optimizer=lion: .*'sgd', 'adam' or 'adamw'"),
        ("schedule=cosine", "--set schedule=cosine: .*'poly', 'time', 'exponential' or 'constant'"),
        ("time_decay=-1", "--set time_decay=-1: .*greater than or equal to 0"),
        ("loss.name=focal", r"--set loss\.name=focal: .*'dice_ce', 'ce', 'wce', 'hra_ce'"),
        ("loss.threshold=1", r"--set loss\.threshold=1: .*less than 1"),
        ("loss.average=some", r"--set loss\.average=some: .*'all' or 'selected'"),
        ("label_share=0", "--set label_share=0: .*greater than 0"),
        ("patch_size=8,16", "--set patch_size=8,16: .*three whole numbers, e.g. 64,152,152"),
        ("patch_size=64", "--set patch_size=64: .*three whole numbers"),
        ("patch_size=8,16,16,8", "--set patch_size=8,16,16,8: .*three whole numbers"),
        ("patch_size=8,a,16", "--set patch_size=8,a,16: .*three whole numbers"),
        ("patch_size=8,-8,16", "--set patch_size=8,-8,16: .*three whole numbers"),
        ("patch_size=8,8.5,16", "--set patch_size=8,8.5,16: .*three whole numbers"),
        ("patch_size=", "--set patch_size=: .*three whole numbers"),
        ("patch_size=0,8,8", "--set patch_size=0,8,8: .*at least 1 voxel along every axis"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_settings(SupervisedSettings, [assignment])


def test_settings_are_listed_by_dotted_name_with_what_they_mean() -> None:
    flat = flat_settings(SupervisedSettings(epochs=3))
    assert flat["epochs"] == (3, "rounds of training")
    assert flat["augmentation.rotation_degrees"][0] == 30
    assert "augmentation" not in flat
