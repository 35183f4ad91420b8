"""A rule is kept if it raises the mean over cases and hurts no structure; each against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from renalplan.errors import DatasetError
from renalplan.geometry import Grid
from renalplan.held_out import HeldOut
from renalplan.images import write_file_array
from renalplan.labels import LabelScheme
from renalplan.parallel import Here, Processes
from renalplan.postprocessing import (
    AtMostTwoKidneys,
    LesionsTouchKidney,
    MinimumVolume,
    VesselsReachAorta,
)
from renalplan.rule_choice import candidate_rules, choose_rules, helps, score_rule_sets, worse

SCHEME = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))
SHAPE = (12, 20, 40)
Edit = Callable[[np.ndarray], None]


def truth() -> np.ndarray:
    """Two kidneys with a tumor on each, one of 27 voxels of 2 microlitres and one of 4."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:10, 5:15, 4:12] = 1
    labels[2:10, 5:15, 28:36] = 1
    labels[4:7, 8:11, 12:15] = 2
    labels[4:6, 8:10, 27] = 2
    return labels


def write(folder: Path, *predictions: np.ndarray) -> list[HeldOut]:
    grid = Grid(
        size=SHAPE[::-1], spacing=(1.0, 1.0, 2.0), origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )  # type: ignore[arg-type]  # fmt: skip
    cases = []
    for number, prediction in enumerate(predictions):
        files = [folder / kind / f"{number}.nii.gz" for kind in ("found", "truth")]
        write_file_array(files[0], prediction, grid)
        write_file_array(files[1], truth(), grid)
        cases.append(HeldOut(str(number), *files))
    return cases


def dice(found: np.ndarray, value: int) -> float:
    right = truth() == value
    return float(2 * (right & (found == value)).sum() / (right.sum() + (found == value).sum()))


def test_what_helps_is_kept_and_what_hurts_is_not(tmp_path: Path) -> None:
    stray = truth()
    stray[1:3, 1:3, 19:21] = 2  # 8 voxels far from any kidney, more than the small tumor
    cases = write(tmp_path, stray, truth())
    choice = choose_rules(cases, SCHEME, executor=Here(), progress=False)
    plain = [np.mean([dice(stray, value), 1]) for value in (1, 2)]
    assert choice.plain == pytest.approx(dict(zip(("kidney", "tumor"), plain, strict=True)))
    assert choice.rules == (LesionsTouchKidney(),)
    assert choice.dice == {"kidney": 1, "tumor": 1}
    tried = {str(t.rule): t for t in choice.tried}
    # 0.05 ml removes the stray piece and the small tumor of both cases, which becomes kidney or fat
    volume = tried[str(MinimumVolume(structure="tumor", ml=0.05))]
    without = truth()
    numbers, _ = ndimage.label(without == 2)
    small = numbers == numbers[4, 8, 27]
    assert small.sum() == 4
    shell = ndimage.binary_dilation(small, np.ones((3, 3, 3))) & ~small
    without[small] = np.bincount(without[shell]).argmax()
    expected = np.mean([dice(without, value) for value in (1, 2)])
    assert volume.mean_dice == pytest.approx(expected)
    assert not volume.kept
    least = tried[str(MinimumVolume(structure="tumor", ml=0.01))]
    assert least.mean_dice < choice.plain["tumor"] / 2 + choice.plain["kidney"] / 2 + 1e-9


def test_a_rule_must_not_help_one_structure_at_the_cost_of_another(tmp_path: Path) -> None:
    assert helps({"a": 0.9, "b": 0.5}, {"a": 0.8, "b": 0.5})
    assert not helps({"a": 0.9, "b": 0.49}, {"a": 0.6, "b": 0.5})
    assert worse({"a": 0.9, "b": 0.49}, {"a": 0.6, "b": 0.5}) == ("b",)
    assert not helps({"a": 0.9, "b": 0.5}, {"a": 0.9, "b": 0.5})


def test_a_rule_that_only_repeats_another_is_not_added(tmp_path: Path) -> None:
    third = truth()
    third[0:2, 0:2, 18:20] = 1  # a third kidney, and a speck of one
    choice = choose_rules(write(tmp_path, third), SCHEME, executor=Here(), progress=False)
    assert choice.rules == (AtMostTwoKidneys(),)
    alone = {str(t.rule): t.mean_dice for t in choice.tried}
    assert alone[str(MinimumVolume(structure="kidney", ml=0.05))] == 1  # would have done as well


def test_of_alternatives_the_best_is_taken(tmp_path: Path) -> None:
    odd = truth()
    odd[odd == 1] = 0
    odd[2:10, 5:15, 4:12] = 1  # one kidney is missed,
    odd[4:6, 8:10, 27] = 0
    odd[10:12, 17:20, 38:40] = 1  # so that this is the second: 12 voxels
    odd[0, 0, 39] = 1  # and this the third
    odd[4:7, 8:11, 12:15] = 2
    choice = choose_rules(write(tmp_path, odd), SCHEME, executor=Here(), progress=False)
    assert choice.rules == (AtMostTwoKidneys(), MinimumVolume(structure="kidney", ml=0.05))
    odd[10:12, 17:20, 38:40] = odd[0, 0, 39] = 0
    assert choice.dice["kidney"] == pytest.approx(dice(odd, 1))


def test_several_processes_say_what_one_says(tmp_path: Path) -> None:
    cases = write(tmp_path, truth(), np.roll(truth(), 1, 2), np.roll(truth(), 2, 1))
    sets = [(), (AtMostTwoKidneys(), LesionsTouchKidney())]
    one = score_rule_sets(cases, SCHEME, sets, executor=Here(), progress=False)
    with Processes(2) as two:
        assert score_rule_sets(cases, SCHEME, sets, executor=two, progress=False) == one
    assert one[0]["kidney"] == pytest.approx(
        np.mean([dice(np.roll(truth(), *how), 1) for how in ((0, 0), (1, 2), (2, 1))])
    )


def test_what_is_tried_depends_on_the_labels() -> None:
    def kinds(*names: str) -> list[str]:
        values = tuple((number,) for number in range(len(names) + 1))
        scheme = LabelScheme(names=("background", *names), values=values)
        return [rules[0].rule for rules in candidate_rules(scheme)]

    assert kinds("kidney", "tumor") == [
        "at_most_two_kidneys", "lesions_touch_a_kidney", "minimum_volume", "minimum_volume",
    ]  # fmt: skip
    assert kinds("artery") == ["vessels_reach_the_aorta", "minimum_volume"]
    assert kinds("spleen") == ["minimum_volume"]
    gaps = next(
        r for r in candidate_rules(LabelScheme(names=("background", "vein"), values=((0,), (1,))))
    )
    assert all(isinstance(rule, VesselsReachAorta) for rule in gaps)


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    cases = write(tmp_path, truth(), truth())
    cases[1].prediction.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"found/1.nii.gz cannot be read"):
        choose_rules(cases, SCHEME, executor=Here(), progress=False)
    grid = Grid(
        size=(4, 4, 4), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )  # fmt: skip
    write_file_array(cases[1].prediction, np.zeros((4, 4, 4), np.uint8), grid)
    with pytest.raises(DatasetError, match=r"found/1.nii.gz does not lie on the grid of"):
        choose_rules(cases, SCHEME, executor=Here(), progress=False)
