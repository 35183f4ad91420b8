"""Trainers are found by name or by import path; what is nearly right is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from renalplan.errors import UsageError
from renalplan.trainers.registry import find_trainer, trainer_path
from renalplan.trainers.unet import UNet


def test_the_default_trainer_is_found_by_name_and_by_path() -> None:
    assert find_trainer("UNet") is UNet
    assert find_trainer("renalplan.trainers.unet:UNet") is UNet


@pytest.mark.parametrize("name", ["Unet", "UNett", "unet"])
def test_a_near_miss_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=rf"no trainer '{name}'. Did you mean UNet"):
        trainer_path(name)


def test_a_name_like_nothing_lists_what_is_installed() -> None:
    with pytest.raises(UsageError, match=r"Installed are .*UNet.*my_trainers:MyTrainer"):
        trainer_path("qqqqqqqq")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Mine", "there is no module 'no_such_module'"),
        ("renalplan.trainers.unet:Mine", "has no class Mine"),
        ("renalplan.labels:LabelScheme", "is not a class derived from Trainer"),
        ("renalplan.trainers.unet:", "is not of the form package.module:Class"),
        (":UNet", "is not of the form package.module:Class"),
    ],
)
def test_a_path_that_leads_to_no_trainer_is_refused(path: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_trainer(path)


def test_a_file_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainer_of_this_test.py").write_text(
        "from renalplan.trainers.unet import UNet\n\n\nclass Mine(UNet):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [])
    import sys

    sys.path.extend(p for p in __import__("site").getsitepackages())
    assert issubclass(find_trainer("trainer_of_this_test:Mine"), UNet)
