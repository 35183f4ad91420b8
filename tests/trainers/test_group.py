"""Group training's phases on hand-made stores: what each one reads, writes and refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from renalplan.dataset import DatasetDescription
from renalplan.errors import TrainingError, UsageError
from renalplan.files import read_record
from renalplan.store import open_items, read_case, write_case, write_labels
from renalplan.trainers.box_baselines import SDI, SizeConstrained, restore_small
from renalplan.trainers.boxed import WeakStage
from renalplan.trainers.boxes import TumorBoxes, inside_boxes, on_item, paint_ellipsoids
from renalplan.trainers.fusion import weight_map
from renalplan.trainers.group import GroupTraining
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.losses.sizes import CERTAIN, UNCERTAIN
from renalplan.trainers.pseudo_masks import ItemMasks
from renalplan.trainers.relabelled import relabelled
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.task import TrainingTask

SHORT = [
    "epochs=1", "iterations=1", "validation_iterations=1", "batch_size=2", "earlier.epochs=1",
    "earlier.iterations=1", "earlier.validation_iterations=0",
]  # fmt: skip
FEW = {GroupTraining: ["crf.iterations=1", "k=2"], SDI: ["crf.iterations=1"], SizeConstrained: []}
Make = Callable[..., TrainingTask]
SCAN = ((0, 20), (0, 24), (0, 22))
TUMOR = ((5, 15), (6, 12), (5, 10))  # of every case, on the grid of the last stages


@pytest.fixture
def description() -> DatasetDescription:
    return DatasetDescription(channel_names={"0": "CT"}, labels={"background": 0, "tumor": 1})


@pytest.fixture
def task(make_task: Make, tmp_path: Path) -> Make:
    """Tasks whose stores hold the one label."""
    first = make_task()
    for stage in first.plan.stages:
        folder = tmp_path / "stores" / stage.name
        for case in ("case_a", "case_b", "case_c"):
            stored = read_case(folder, case)
            assert stored is not None
            items = []
            for item in open_items(folder, (case,)):
                labels = (np.asarray(item.labels[0]) == 1).astype(np.uint8)
                counts = write_labels(folder, item.item.name, labels, first.scheme)
                items.append(item.item.model_copy(update={"structures": counts, "box": SCAN}))
            write_case(folder, stored.model_copy(update={"items": tuple(items)}))
    return make_task


def group(task: TrainingTask, *settings: str, kind: type = GroupTraining) -> GroupTraining:
    given = [*SHORT, *FEW[kind], *settings]  # of two that are alike, the last one holds
    trainer: GroupTraining = kind(task, parse_settings(kind.Settings, given))
    trainer.check()
    return trainer


def names(trainer: GroupTraining) -> list[str]:
    return [phase.name for phase in trainer.phases()]


def test_the_phases_are_the_paper_s(task: Make) -> None:
    first, last = ["boxes", "pseudo_masks"], ["whole"]
    assert names(group(task())) == [*first, "group_1", "group_2", "fusion", *last]
    assert names(group(task(), "k=0")) == [*first, *last]
    cascade = names(group(task("cascade"), "k=1"))
    assert cascade == [
        "boxes", "lowres_masks", "lowres", "before_fullres", "pseudo_masks", "group_1", "fusion",
        "fullres",
    ]  # fmt: skip


def test_each_image_is_learnt_from_by_one_network(task: Make) -> None:
    running = group(task())
    learnt = {}
    for phase in running.phases()[:-1]:
        phase.run(running.task)
        if phase.name.startswith("group"):
            assert isinstance(phase, WeakStage)
            learnt[phase.name] = {item.case for item in phase.items(running.task)}
    assert sorted(map(sorted, learnt.values())) == [["case_a"], ["case_b"]]


@pytest.mark.parametrize(
    ("kind", "configuration"),
    [
        (GroupTraining, "whole"),
        (GroupTraining, "locate_fine"),
        (GroupTraining, "cascade"),
        (SDI, "locate_fine"),
        (SizeConstrained, "whole"),
    ],
)
def test_labels_are_opened_for_boxes_alone(
    task: Make, opened: set[str], kind: type, configuration: str
) -> None:
    running = group(task(configuration), "validation_iterations=0", kind=kind)
    phases = running.phases()
    phases[0].run(running.task)
    last = running.task.stages[-1].name
    seen = {name for name in opened if name.endswith(".labels")}
    assert seen == {
        f"{last}/{case}.{n}.labels"
        for case in ("case_a", "case_b")
        for n in range(2 if configuration == "locate_fine" else 1)
    }
    opened.clear()
    for phase in phases[1:]:
        phase.run(running.task)
        assert phase.is_done(running.task)
    stores = {stage.name for stage in running.task.plan.stages}
    assert not [n for n in opened if n.endswith(".labels") and n.split("/")[0] in stores]
    assert [n for n in opened if n.endswith(".labels")]  # but those that phases made
    assert not [n for n in opened if "case_c" in n and not n.startswith("lowres/")]


def test_boxes_are_the_label_s_extent_and_a_margin(task: Make) -> None:
    for margin, wanted in ((0, TUMOR), (4, ((1, 19), (2, 16), (1, 14)))):
        running = group(task(), f"box_margin={margin}")
        running.phases()[0].run(running.task)
        path = running.task.fold_folder / "boxes" / "boxes.json"
        found = read_record(path, TumorBoxes)
        assert set(found.boxes) == {"case_a", "case_b"}
        assert found.boxes["case_a"] == (tuple((float(a), float(b)) for a, b in wanted),)
        assert f"{margin} voxels" in found.source


def test_the_csv_is_taken_unless_a_margin_is_asked_for(task: Make) -> None:
    given = {"case_a": (((1, 5), (2, 9), (3, 7)),), "case_b": (((0, 2), (0, 2), (0, 2)),) * 2}
    with_csv = task(boxes=given)
    for settings, is_csv in (((), True), (("box_margin=0",), False)):
        running = group(with_csv, *settings)
        running.phases()[0].run(running.task)
        found = read_record(running.task.fold_folder / "boxes" / "boxes.json", TumorBoxes)
        assert (found.source == "boxesTr.csv") == is_csv
        assert (found.boxes["case_a"] == (((1, 5), (2, 9), (3, 7)),)) == is_csv
        assert (len(found.boxes["case_b"]) == 2) == is_csv


def test_votes_are_counted_within_the_boxes(task: Make) -> None:
    for confine in (True, False):
        running = group(task(), f"fusion.confine={confine}", f"seed={confine:d}")
        for phase in running.phases()[:-1]:
            phase.run(running.task)
        fold, plan = running.task.fold_folder, running.task.plan
        stage = running.stages[-1]
        found = read_record(fold / "boxes" / "boxes.json", TumorBoxes).boxes
        networks = {
            p.name: running.network_of(stage) for p in running.phases() if "group" in p.name
        }
        for item in running.task.training_items(stage):
            pseudo = np.asarray(relabelled(item, fold / "pseudo_masks").labels[0]) > 0
            fused = np.asarray(relabelled(item, fold / "fusion").labels[0]) > 0
            inside = inside_boxes(on_item(found[item.case], item, plan.order), item.item.shape)
            predictions = [
                ItemPredictor(running.task, stage, network, phase=name)(item) > 0
                for name, network in networks.items()
            ]
            assert len(predictions) == 2
            if confine:
                predictions = [p & inside for p in predictions]
                assert not (fused & ~inside).any()
            final = running.phases()[-1]
            assert isinstance(final, WeakStage)
            read = final.weights(running.task)
            assert read is not None
            size = tuple(n + 4 for n in item.item.shape)
            votes = read(item, (-2, -2, -2), size)[0]
            assert np.array_equal(votes[2:-2, 2:-2, 2:-2], weight_map(pseudo, predictions))
            assert not votes[:2].any()  # beyond the image
            assert not votes[..., -2:].any()
        for phase in ("boxes", "pseudo_masks", "group_1", "group_2", "fusion"):
            for path in (fold / phase).rglob("*"):
                if path.is_file():
                    path.unlink()


def test_what_each_voxel_weighs_enters_the_loss(task: Make) -> None:
    losses = {}
    for settings in ((), ("scale_weights=true",), ("weighting=classes",)):
        running = group(task(), "augmentation.enabled=false", *settings)
        *before, last = running.phases()
        for phase in before:
            if not phase.is_done(running.task):
                phase.run(running.task)
        assert isinstance(last, WeakStage)
        last.prepare(running.task)
        batch = last.training_batches(running.task).batch(0)
        assert ("weights" in batch) == (settings != ("weighting=classes",))
        torch.manual_seed(0)
        losses[settings] = last.loss(last.build(), batch, 0).item()
    plain, scaled, classes = losses.values()
    assert plain == pytest.approx(3 * scaled, rel=1e-5)  # K + 1
    assert classes != pytest.approx(plain, rel=1e-3)


def test_boxes_that_fell_back_are_told_and_kept_on_record(
    task: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from renalplan.trainers import pseudo_masks

    monkeypatch.setattr(pseudo_masks, "refine", lambda p, *_: np.zeros(p.shape, bool))
    running = group(task(), "k=0")
    boxes, masks, _ = running.phases()
    boxes.run(running.task)
    caplog.set_level(logging.WARNING, logger="renalplan")
    masks.run(running.task)
    assert "2 of 2 boxes kept less than 20 % or more than 95 %" in caplog.text
    folder = running.task.fold_folder / "pseudo_masks"
    for item in running.task.training_items(running.stages[-1]):
        found = read_record(folder / "reports" / f"{item.item.name}.json", ItemMasks)
        assert [box.fell_back for box in found.boxes] == [True]
        mine = TUMOR
        wanted = paint_ellipsoids((mine,), item.item.shape)
        assert np.array_equal(np.asarray(relabelled(item, folder).labels[0]) > 0, wanted)
    caplog.clear()
    (folder / "done").unlink()  # a killed run says the same again
    masks.run(running.task)
    assert "2 of 2 boxes" in caplog.text


def test_earlier_stages_learn_ellipsoids_on_their_own_grid(task: Make) -> None:
    running = group(task("locate_fine"), "box_margin=2")
    boxes, masks, locate, *_ = running.phases()
    boxes.run(running.task)
    masks.run(running.task)
    assert isinstance(locate, WeakStage)
    for item in locate.items(running.task):
        # 3..17, 4..14, 3..12 of the fine grid; this one has half as many voxels
        labels = np.asarray(item.labels[0])
        assert item.item.structures == {"tumor": int((labels > 0).sum())}
        where = np.argwhere(labels)
        assert where.min(0).tolist() == [1, 2, 1]
        assert (where.max(0) + 1).tolist() == [8, 7, 6]
        assert len(where) == paint_ellipsoids((((1, 8), (2, 7), (1, 6)),), (10, 12, 11)).sum()


@pytest.mark.parametrize(
    ("labels", "more"),
    [
        ({"background": 0, "kidney": 1, "tumor": 2}, {}),
        ({"background": 0, "all": [1, 2], "tumor": 2}, {"regions_class_order": [1, 2]}),
        ({"background": 0, "tumor": [1, 2]}, {"regions_class_order": [1]}),
        ({"background": 0, "tumor": 1, "ignore": 2}, {}),
    ],
)
def test_anything_but_one_structure_is_refused(make_task: Make, labels: dict, more: dict) -> None:
    described = DatasetDescription(channel_names={"0": "CT"}, labels=labels, **more)
    with pytest.raises(UsageError, match="must have one label besides background"):
        group(make_task(description=described))


def test_what_cannot_work_is_refused(task: Make) -> None:
    with pytest.raises(
        UsageError, match="3 disjoint subsets need as many training cases, there are 2"
    ):
        group(task(), "k=3")
    with pytest.raises(UsageError, match="add weighting=classes"):
        group(task(), "loss.name=dice_ce")
    group(task(), "loss.name=dice_ce", "weighting=classes")
    group(task(), "k=0", "loss.name=dice_ce")
    with pytest.raises(UsageError, match=r"boxesTr\.csv has no box of case_b"):
        group(task(boxes={"case_a": (((0, 2), (0, 2), (0, 2)),)}))
    boxed = task(boxed=frozenset({"case_b"}), boxes={"case_b": (((0, 2), (0, 2), (0, 2)),)})
    with pytest.raises(UsageError, match="which case_b and 0 others do not have"):
        group(boxed, "box_margin=0")
    with pytest.raises(UsageError, match="loss of its own"):
        group(task(), "loss.name=ce", kind=SizeConstrained)
    with pytest.raises(UsageError, match="must not be above"):
        group(task(), "size_low=2", kind=SizeConstrained)


def test_no_box_at_all_is_refused(task: Make, tmp_path: Path) -> None:
    running = group(task())
    for item in running.task.training_items(running.stages[-1]):
        write_labels(
            item.folder, item.item.name, np.zeros(item.item.shape, np.uint8), running.task.scheme
        )
    with pytest.raises(TrainingError, match="no training case of this fold has a tumor box"):
        running.phases()[0].run(running.task)
    assert not (running.task.fold_folder / "boxes" / "done").exists()


def test_held_out_boxes_are_no_truth_to_score_by(task: Make, opened: set[str]) -> None:
    running = group(task(boxed=frozenset({"case_c"})), "k=0", "box_margin=0")
    for phase in running.phases():
        phase.run(running.task)
    assert not [name for name in opened if "case_c" in name]
    log = (running.task.fold_folder / "whole" / "log.csv").read_text()
    assert "dice" not in log
    labelled = group(task(), "k=0", "box_margin=0", "seed=1")
    labelled.phases()[-1].run(labelled.task)
    assert "case_c" in " ".join(opened)


def test_largest_component_is_a_setting(task: Make) -> None:
    for value, name in ((True, "LargestComponentSegmenter"), (False, "StagedSegmenter")):
        spec = group(task(), f"largest_component={value}").segmenter()
        assert spec.factory.endswith(f":{name}")
        assert spec.arguments["stages"] == {"whole": "whole"}


def test_seeds_are_certain_and_the_rest_of_a_box_is_not(task: Make) -> None:
    running = group(task(), "seed_radius=0.5", kind=SizeConstrained)
    boxes, seeds, last = running.phases()
    boxes.run(running.task)
    seeds.run(running.task)
    assert isinstance(last, WeakStage)
    read = last.weights(running.task)
    assert read is not None
    item = running.task.training_items(running.stages[-1])[0]
    values = read(item, (0, 0, 0), item.item.shape)[0]
    box = TUMOR
    inside = inside_boxes((box,), item.item.shape)
    assert (values[~inside] == CERTAIN).all()
    for place in np.argwhere(inside):
        q = sum(
            ((n + 0.5 - (a + b) / 2) / ((b - a) / 2)) ** 2
            for n, (a, b) in zip(place, box, strict=True)
        )
        assert values[tuple(place)] == (CERTAIN if q <= 0.25 else UNCERTAIN)
    made = np.asarray(last.items(running.task)[0].labels[0]) > 0
    assert np.array_equal(made, paint_ellipsoids((box,), item.item.shape))


def test_denoised_masks_fall_back_on_the_first_ones() -> None:
    mask, first = np.zeros((10, 10, 20), bool), np.zeros((10, 10, 20), bool)
    mask[:, :2, :10] = True  # a fifth of the first box
    mask[:, :1, 10:] = True  # a tenth of the second
    first[5:, :, 10:] = True
    found = restore_small(mask, first, (((0, 10), (0, 10), (0, 10)), ((0, 10), (0, 10), (10, 20))))
    assert np.array_equal(found[..., :10], mask[..., :10])
    assert np.array_equal(found[..., 10:], first[..., 10:])


def test_sdi_trains_each_round_on_the_one_before(task: Make) -> None:
    running = group(task(), "rounds=2", "round_epochs=2", kind=SDI)
    phases = running.phases()
    assert [phase.name for phase in phases] == [
        "boxes", "pseudo_masks", "round_1", "masks_1", "round_2", "masks_2", "whole",
    ]  # fmt: skip
    trained = [phase for phase in phases if isinstance(phase, WeakStage)]
    assert [phase.masks for phase in trained] == ["pseudo_masks", "masks_1", "masks_2"]
    assert [phase.epochs for phase in trained] == [2, 2, 1]


def test_the_settings_are_the_paper_s() -> None:
    given = json.loads(GroupTraining.Settings().model_dump_json())
    assert (given["k"], given["batch_size"], given["optimizer"], given["learning_rate"]) == (
        3, 6, "adam", 0.001,
    )  # fmt: skip
    assert given["schedule"] == "exponential"
    assert (given["loss"]["name"], given["loss"]["background_weight"]) == ("wce", 0.2)
    assert given["weighting"] == "voxels"


def test_the_rate_decays_exponentially(task: Make) -> None:
    running = group(task(), "k=0", "epochs=4", "iterations=10", "decay_rate=0.5")
    last = running.phases()[-1]
    assert isinstance(last, WeakStage)
    assert last.rate(0, 40) == 1
    assert last.rate(5, 40) == pytest.approx(0.5**0.5)
    assert last.rate(30, 40) == pytest.approx(0.125)
