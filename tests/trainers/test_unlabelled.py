"""Images to learn from: training and unlabelled scans, no label, nothing of who is held out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from renalplan.geometry import Box, whole_box
from renalplan.model_folder import WEIGHTS
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays, StoredCase, open_items, write_case, write_item
from renalplan.trainers import unlabelled
from renalplan.trainers.augmentation import AugmentationSettings
from renalplan.trainers.autoencoder import AutoencoderSettings, DenoisingAutoencoder
from renalplan.trainers.phase import save_weights
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unlabelled import (
    REGIONS,
    REGIONS_PHASE,
    ImageSource,
    find_regions,
    read_regions,
)
from renalplan.trainers.variation import Variation

Make = Callable[..., TrainingTask]
Add = Callable[..., None]
SHAPE = (20, 24, 22)
UNUSED = NetworkSpec(factory="renalplan.networks.unet:UNet")
AUTOENCODER = NetworkSpec(
    factory="renalplan.networks.autoencoder:Autoencoder",
    arguments={"in_channels": 1, "widths": [4, 4, 8, 8], "dropout": 0.2},
)


class Untouched:
    """Wants to see more than there may be, and changes nothing."""

    on_device = True

    def draw(self, generator: np.random.Generator, channels: int) -> Variation:
        return Variation()

    def reach(self, drawn: Variation) -> tuple[int, int, int]:
        return (9, 9, 9)

    def __call__(self, sample: dict[str, Any], drawn: Variation) -> dict[str, Any]:
        return sample


def _phase(
    stage: StagePlan, augmentation: AugmentationSettings | None = None
) -> DenoisingAutoencoder:
    settings = AutoencoderSettings(epochs=1, iterations=2, batch_size=2)
    plain = AugmentationSettings(enabled=False)
    return DenoisingAutoencoder(stage, AUTOENCODER, settings, augmentation or plain, seed=3)


def _source(phase: DenoisingAutoencoder, task: TrainingTask) -> ImageSource:
    found = phase.training_batches(task)
    assert isinstance(found, ImageSource)
    return found


def _coordinates(folder: Path, name: str, case: str, shape: tuple[int, int, int]) -> ItemArrays:
    """An item whose three channels are 1 + z, y, x, so that every voxel says where it is."""
    image = 1 + np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
    scheme: Any = None  # of labels only
    return ItemArrays(folder, write_item(folder, name, image, None, whole_box(shape), scheme), case)


def _start(image: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(channel.flatten()[0]) - 1 for channel in image)


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, ItemArrays]:
    folder = tmp_path / "coordinates"
    return {
        "un_a.0": _coordinates(folder, "un_a.0", "un_a", (40, 30, 30)),
        "un_b.0": _coordinates(folder, "un_b.0", "un_b", (20, 24, 28)),
        "tr.0": _coordinates(folder, "tr.0", "tr", (10, 12, 14)),
        "tr.1": _coordinates(folder, "tr.1", "tr", (11, 12, 14)),
    }


def _make(scans: dict[str, ItemArrays], **values: Any) -> ImageSource:
    given: dict[str, Any] = {
        "items": tuple(scans.values()),
        "regions": {},
        "patch": (4, 6, 8),
        "margin": (0, 0, 0),
        "batch_size": 2,
        "transform": Untouched(),
        "seed": 1,
    }
    return ImageSource(**(given | values))


# --- patches


def test_a_batch_is_a_pure_function_of_seed_and_step(make_task: Make, add_unlabelled: Add) -> None:
    add_unlabelled("un_x")
    task = make_task(unlabelled=("un_x",))
    source = _source(_phase(task.stages[0], AugmentationSettings()), task)
    again = pickle.loads(pickle.dumps(source))  # as in a data worker
    first = [source.batch(step)["image"] for step in range(5)]
    assert first[0].shape == (2, 1, 8, 8, 8)
    assert first[0].dtype == torch.float32
    torch.manual_seed(99)
    for step in (4, 0, 3, 1, 2):
        assert torch.equal(again.batch(step)["image"], first[step])
    flat = [image.numpy().tobytes() for batch in first for image in batch]
    assert len(set(flat)) == 10  # neither steps nor places repeat each other
    assert not torch.equal(replace(source, seed=4).batch(0)["image"], first[0])


def test_every_case_is_as_likely_then_every_item_of_it(scans: dict[str, ItemArrays]) -> None:
    source = _make(scans, patch=(4, 6, 8), batch_size=1)
    drawn = []

    class Spy(ItemArrays):
        def image_patch(self, *where: Any) -> NDArray[np.float32]:
            drawn.append(self.item.name)
            return super().image_patch(*where)

    items = tuple(Spy(i.folder, i.item, i.case) for i in source.items)
    source = replace(source, items=items)
    for step in range(600):
        source.batch(step)
    counts = {name: drawn.count(name) for name in scans}
    assert counts["un_a.0"] == pytest.approx(200, abs=50)
    assert counts["un_b.0"] == pytest.approx(200, abs=50)
    assert counts["tr.0"] == pytest.approx(100, abs=35)
    assert counts["tr.1"] == pytest.approx(100, abs=35)


BOXES: dict[str, tuple[Box, ...]] = {
    "un_a.0": (((5, 15), (2, 12), (3, 20)), ((30, 34), (20, 26), (10, 18))),
    "un_b.0": (),
}


def test_patches_lie_in_the_regions_and_reach_all_of_them(scans: dict[str, ItemArrays]) -> None:
    source = _make({"un_a.0": scans["un_a.0"]}, regions=BOXES, batch_size=8)
    starts = {_start(image) for step in range(60) for image in source.batch(step)["image"]}
    second = {start for start in starts if start[0] >= 15}
    assert second == {(30, 20, 10)}  # as large as a patch
    first = np.array(sorted(starts - second))
    assert first.min(0).tolist() == [5, 2, 3]
    assert first.max(0).tolist() == [15 - 4, 12 - 6, 20 - 8]


def test_a_patch_larger_than_its_region_is_centred_on_it(scans: dict[str, ItemArrays]) -> None:
    box: Box = ((20, 22), (10, 20), (10, 12))
    source = _make({"un_a.0": scans["un_a.0"]}, regions={"un_a.0": (box,)})
    starts = {_start(image) for step in range(20) for image in source.batch(step)["image"]}
    assert {(z, x) for z, _, x in starts} == {(19, 7)}
    assert {y for _, y, _ in starts} == set(range(10, 15))


def test_an_item_where_nothing_was_found_or_looked_for_is_used_whole(
    scans: dict[str, ItemArrays],
) -> None:
    for name, shape in (("un_b.0", (20, 24, 28)), ("tr.0", (10, 12, 14))):
        source = _make({name: scans[name]}, regions=BOXES, batch_size=8)
        starts = [_start(image) for step in range(60) for image in source.batch(step)["image"]]
        found = np.array(starts)
        assert found.min(0).tolist() == [0, 0, 0]
        assert found.max(0).tolist() == [n - p for n, p in zip(shape, source.patch, strict=True)]


def test_the_margin_is_read_around_the_patch(scans: dict[str, ItemArrays]) -> None:
    box: Box = ((0, 4), (10, 16), (10, 18))  # as large as a patch
    seen = []

    class Crop(Untouched):
        def __call__(self, sample: dict[str, Any], drawn: Variation) -> dict[str, Any]:
            seen.append(sample["image"])
            return {"image": sample["image"][:, 3:-3, 2:-2, 1:-1]}

    source = _make(
        {"un_a.0": scans["un_a.0"]}, regions={"un_a.0": (box,)}, margin=(3, 2, 1), transform=Crop()
    )
    assert _start(source.batch(0)["image"][0]) == (0, 10, 10)
    assert seen[0].shape == (3, 4 + 6, 6 + 4, 8 + 2)
    assert not seen[0][:, :3].any()  # beyond the scan's border
    assert _start(seen[0][:, 3:]) == (0, 8, 9)


# --- what an autoencoder may see


def test_it_reads_training_and_unlabelled_images_and_nothing_else(
    make_task: Make, add_unlabelled: Add, opened: set[str]
) -> None:
    for case in ("un_x", "un_held"):
        add_unlabelled(case)
    task = make_task(unlabelled=("un_x",), withheld=("un_held",))
    for path in task.stores.rglob("*"):
        if path.name.endswith((".labels.b2nd", ".places.npz")):
            path.unlink()
    source = _source(_phase(task.stages[0]), task)
    assert {item.case for item in source.items} == {"case_a", "case_b", "un_x"}
    for step in range(40):
        source.batch(step)
    assert opened == {f"whole/{case}.0.image" for case in ("case_a", "case_b", "un_x")}


def test_without_unlabelled_images_it_reads_the_training_cases(
    make_task: Make, opened: set[str]
) -> None:
    task = make_task("locate_fine")
    source = _source(_phase(task.stages[1]), task)  # regions are neither needed nor there
    for step in range(40):
        source.batch(step)
    assert opened == {f"fine/case_{c}.{n}.image" for c in "ab" for n in (0, 1)}


def test_it_learns_to_restore_the_clean_image(make_task: Make, add_unlabelled: Add) -> None:
    add_unlabelled("un_x")
    task = make_task(unlabelled=("un_x",))
    phase = _phase(task.stages[0])
    batch = _source(phase, task).batch(0)

    class Blank(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(image, dtype=torch.bfloat16)

    assert float(phase.loss(Blank(), batch, 0)) == pytest.approx(
        float((batch["image"] ** 2).mean()), rel=1e-5
    )
    optimizer = phase.optimizer(phase.build())
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["lr"] == 1e-4
    assert phase.rate(0, 10) == 1
    assert phase.rate(50_000, 10) == pytest.approx(1 / 1.5)
    phase.run(task)
    assert phase.is_done(task)


# --- where the kidneys of unlabelled scans are


class Bright:
    """Instead of a network: what is brighter than 0.5."""

    def __init__(self, task: TrainingTask, stage: StagePlan, network: NetworkSpec) -> None:
        assert stage.name == "locate"

    def __call__(self, item: ItemArrays) -> NDArray[np.int16]:
        return (np.asarray(item.image[0]) > 0.5).astype(np.int16)


def _boxes_image(*boxes: Box) -> Callable[[tuple[int, int, int]], NDArray[np.float32]]:
    """Bright boxes, given in voxels of the coarse grid (10, 12, 11)."""

    def image(shape: tuple[int, int, int]) -> NDArray[np.float32]:
        found = np.zeros(shape, np.float32)
        factor = shape[0] // 10
        for box in boxes:
            found[tuple(slice(a * factor, b * factor) for a, b in box)] = 1
        return found

    return image


def _with_fine(task: TrainingTask, **changes: Any) -> TrainingTask:
    stages = tuple(
        stage.model_copy(update=changes) if stage.name == "fine" else stage
        for stage in task.plan.stages
    )
    return replace(task, plan=task.plan.model_copy(update={"stages": stages}))


@pytest.fixture
def located(make_task: Make, add_unlabelled: Add, monkeypatch: pytest.MonkeyPatch) -> TrainingTask:
    """Two kidneys and a speck, one kidney, none; no margin, specks below 1 ml are left out."""
    right: Box = ((2, 5), (3, 6), (1, 4))
    left: Box = ((4, 8), (5, 9), (7, 10))
    speck: Box = ((0, 1), (0, 1), (10, 11))
    add_unlabelled("un_two", _boxes_image(right, left, speck))
    add_unlabelled("un_one", _boxes_image(right))
    add_unlabelled("un_none", _boxes_image())
    monkeypatch.setattr(unlabelled, "ItemPredictor", Bright)
    task = make_task("locate_fine", unlabelled=("un_two", "un_one", "un_none"))
    return _with_fine(task, margin_mm=0.0, minimum_component_ml=1.0)


def _find(task: TrainingTask) -> dict[str, tuple[Box, ...]]:
    folder = task.fold_folder / REGIONS_PHASE
    folder.mkdir(parents=True, exist_ok=True)
    find_regions(task, task.stages[1], UNUSED, folder)
    assert (folder / REGIONS).is_file()
    return read_regions(folder)


def test_regions_are_what_the_stage_before_found_on_the_finer_grid(located: TrainingTask) -> None:
    right, left = ((4, 10), (6, 12), (2, 8)), ((8, 16), (10, 18), (14, 20))
    assert _find(located) == {"un_two.0": (right, left), "un_one.0": (right,), "un_none.0": ()}


def test_regions_reach_the_margin_beyond_and_end_with_the_scan(located: TrainingTask) -> None:
    # 8 mm are two voxels of 4 mm, four of 2 mm
    found = _find(_with_fine(located, margin_mm=8.0))
    assert found["un_one.0"] == (((0, 14), (2, 16), (0, 12)),)
    assert found["un_two.0"] == (((0, 20), (2, 22), (0, 22)),)  # the two have met
    everything = _find(_with_fine(located, margin_mm=1e4))
    assert everything["un_one.0"] == (whole_box(SHAPE),)


def test_a_region_is_never_smaller_than_what_was_found_on_odd_grids(
    located: TrainingTask,
) -> None:
    """21 voxels against 10: a coarse voxel is 2.1 fine ones."""
    folder = located.stores / "fine"
    item = _coordinates(folder, "un_one.0", "un_one", (21, 25, 21)).item
    write_case(
        folder,
        StoredCase(
            case="un_one",
            patient="un_one",
            inputs="-",
            recipe="-",
            spacing=(2, 2, 2),
            items=(item,),
        ),
    )
    # 2 * 2.1 = 4.2 and 5 * 2.1 = 10.5; 3 * 25/12 = 6.25 and 12.5; 21/11 = 1.9 and 7.6
    assert _find(located)["un_one.0"] == (((4, 11), (6, 13), (1, 8)),)


def test_patches_of_unlabelled_scans_come_from_the_regions_found(
    located: TrainingTask, opened: set[str]
) -> None:
    fine = located.stages[1]
    boxes = _find(located)
    source = _source(_phase(fine.model_copy(update={"patch_size": (4, 4, 4)})), located)
    assert source.regions == boxes
    only = replace(
        source, items=tuple(item for item in source.items if item.case == "un_two"), batch_size=4
    )
    # the kidneys are bright all over, so their patches are as well
    assert all((only.batch(step)["image"] == 1).all() for step in range(20))
    empty = replace(only, items=tuple(i for i in source.items if i.case == "un_none"))
    assert not empty.batch(0)["image"].any()
    opened.clear()
    for step in range(60):
        source.batch(step)
    read = {f"fine/case_{c}.{n}.image" for c in "ab" for n in (0, 1)}
    assert opened <= read | {f"fine/un_{n}.0.image" for n in ("two", "one", "none")}


def test_a_trained_network_says_where(
    make_task: Make, add_unlabelled: Add, opened: set[str]
) -> None:
    """The real predictor with the plan's own network, as it was made."""
    add_unlabelled("un_x")
    task = make_task("locate_fine", unlabelled=("un_x",))
    locate, _ = task.stages
    network = NetworkSpec(
        factory=locate.network.factory,
        arguments={**locate.network.arguments, "in_channels": 1, "heads": 2},
    )
    from renalplan.model_folder import build_network

    torch.manual_seed(0)
    save_weights(task.fold_folder / "locate" / WEIGHTS, build_network(network, "test"))
    folder = task.fold_folder / REGIONS_PHASE
    folder.mkdir()
    find_regions(task, task.stages[1], network, folder)
    (boxes,) = read_regions(folder).values()
    assert boxes
    for box in boxes:
        assert all(0 <= a < b <= n for (a, b), n in zip(box, SHAPE, strict=True))
    assert opened == {"locate/un_x.0.image"}  # no training case, nothing held out
    assert len(open_items(task.stores / "fine", ("un_x",))) == 1
