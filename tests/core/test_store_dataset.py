import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan import store_dataset as module
from renalplan.dataset import Case, Dataset
from renalplan.errors import DatasetError
from renalplan.executors import open_executor
from renalplan.files import content_hash
from renalplan.images import read_volume
from renalplan.labels import LabelScheme
from renalplan.parallel import Here
from renalplan.plan import Plan, StagePlan
from renalplan.store import open_items, read_case
from renalplan.store_dataset import StoreJob, hash_inputs, outdated, store_dataset

CASES = ["case_1", "case_2", "case_3"]


@dataclass
class Setup:
    """A small dataset, a plan of two stages for it, and where both are."""

    folder: Path
    out: Path
    plan: Plan

    @property
    def cases(self) -> tuple[Case, ...]:
        return Dataset.open(self.folder).training_cases

    @property
    def hashes(self) -> dict[str, str]:
        return hash_inputs(self.cases, self.out / "inputs.json")

    @property
    def job(self) -> StoreJob:
        return StoreJob(self.plan, Dataset.open(self.folder).scheme, self.out)

    @property
    def stages(self) -> list[StagePlan]:
        return list(self.plan.stages)

    def outdated(self) -> list[str]:
        found = outdated(self.cases, self.hashes, self.job, self.stages)
        return [case.id for case in found]

    def store(self, workers: int = 0) -> list[str]:
        with open_executor(workers) as executor:
            done = store_dataset(self.cases, self.hashes, self.job, self.stages, executor)
            return [case.id for case in done]

    def times(self) -> dict[str, int]:
        """When each stored file was written, by `stage/name`."""
        return {
            f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns
            for path in sorted(self.out.rglob("*/*"))
        }

    def written_since(self, before: dict[str, int]) -> set[str]:
        now = self.times()
        return {name for name in now if now[name] != before.get(name)}

    def age(self) -> None:
        """Make all stored files look old, so that a new one shows whatever the clock's steps."""
        for path in self.out.rglob("*/*"):
            os.utime(path, ns=(10**18, 10**18))

    def edit(self, name: str, **changes: Any) -> None:
        stages = [s.model_copy(update=changes) if s.name == name else s for s in self.stages]
        self.plan = self.plan.model_copy(update={"stages": tuple(stages)})


@pytest.fixture
def setup(
    tmp_path: Path,
    make_dataset: Callable[..., Path],
    make_plan: Callable[..., Plan],
    make_stage: Callable[..., StagePlan],
) -> Setup:
    plan = make_plan(
        make_stage("locate", spacing=(2.0, 2.0, 2.0), target="foreground"),
        make_stage("fine", region="kidney", previous="locate", margin_mm=1),
    )
    return Setup(folder=make_dataset(CASES), out=tmp_path / "out", plan=plan)


@pytest.fixture
def done(setup: Setup) -> Setup:
    assert setup.store() == CASES
    setup.age()
    return setup


def names(stages: Sequence[str], case: str, items: int = 1) -> set[str]:
    """The files that one case has in some stages."""
    endings = ["image.b2nd", "labels.b2nd", "places.npz"]
    arrays = {f"{s}/{case}.{n}.{e}" for s in stages for n in range(items) for e in endings}
    return arrays | {f"{stage}/{case}.json" for stage in stages}


def test_each_case_is_stored_for_each_stage(done: Setup) -> None:
    stored = read_case(done.out / "locate", "case_1")
    assert stored is not None
    assert stored.patient == "case_1"
    assert stored.inputs == content_hash(*done.cases[0].images, done.cases[0].label)
    # tissue of 6 x 8 x 10 mm inside one voxel of air, at 2 mm
    assert [item.shape for item in stored.items] == [(3, 4, 5)]
    assert stored.items[0].box == ((1, 7), (1, 9), (1, 11))
    assert done.outdated() == []


def test_a_kidney_stage_holds_a_box_for_each_kidney(done: Setup) -> None:
    items = open_items(done.out / "fine", ("case_1",))
    # 8 voxels from (2, 6, 7) and 27 from (2, 2, 2), and 1 mm around both
    assert [item.item.box for item in items] == [
        ((1, 5), (5, 9), (6, 10)),
        ((1, 6), (1, 6), (1, 6)),
    ]
    assert [item.item.structures for item in items] == [
        {"kidney": 0, "tumour": 8},
        {"kidney": 27, "tumour": 0},
    ]
    scan = read_volume(done.cases[0].images[0]).array[0]
    expected = (np.clip(scan[1:6, 1:6, 1:6], -60, 300) - 100) / 50
    np.testing.assert_allclose(items[1].image[:][0], expected, atol=2e-3)


def test_a_second_run_writes_nothing(done: Setup) -> None:
    before = done.times()
    assert done.outdated() == []
    assert done.store() == []
    assert done.written_since(before) == set()


def test_a_changed_label_redoes_its_case_only(done: Setup, write: Callable[..., Path]) -> None:
    before = done.times()
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[3:6, 3:6, 3:6] = 1
    labels[3, 3, 3] = 2
    write(done.folder / "labelsTr" / "case_2.nii.gz", labels)
    assert done.store() == ["case_2"]
    assert done.written_since(before) == names(["locate", "fine"], "case_2")
    assert done.outdated() == []


def test_a_changed_spacing_redoes_its_stage_only(done: Setup) -> None:
    before = done.times()
    done.edit("locate", spacing=(1.0, 1.0, 1.0))
    assert done.outdated() == CASES
    done.store()
    expected = set().union(*(names(["locate"], case) for case in CASES))
    assert done.written_since(before) == expected
    assert done.outdated() == []


def test_what_does_not_shape_arrays_redoes_nothing(done: Setup) -> None:
    done.edit("locate", patch_size=(8, 8, 8), batch_size=5, margin_mm=3.0)
    assert done.outdated() == []


def test_a_case_without_its_sidecar_is_redone(done: Setup) -> None:
    before = done.times()
    (done.out / "fine" / "case_3.json").unlink()  # what a kill leaves
    assert done.outdated() == ["case_3"]
    assert done.store() == ["case_3"]
    assert done.written_since(before) == names(["fine"], "case_3", items=2)


def test_a_missing_array_is_made_again(done: Setup) -> None:
    (done.out / "fine" / "case_1.1.labels.b2nd").unlink()
    assert done.outdated() == ["case_1"]
    done.store()
    assert (done.out / "fine" / "case_1.1.labels.b2nd").is_file()


def test_a_damaged_sidecar_is_as_good_as_none(done: Setup) -> None:
    (done.out / "fine" / "case_1.json").write_text("{")
    assert done.store() == ["case_1"]
    assert done.outdated() == []


def test_a_kill_while_arrays_are_replaced_leaves_no_sidecar(
    done: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    done.edit("locate", spacing=(1.0, 1.0, 1.0))
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_item", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            done.store()
    # even back at the old plan, the case that was being replaced does not count as complete
    done.edit("locate", spacing=(2.0, 2.0, 2.0))
    assert done.outdated() == ["case_1"]


def test_leftovers_of_a_kill_are_swept(setup: Setup) -> None:
    leftover = setup.out / "fine" / ".tmp-1-case_1.0.image.b2nd"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    setup.store()
    assert not leftover.exists()


def test_a_failing_case_is_reported_after_the_others_are_done(
    setup: Setup, write: Callable[..., Path]
) -> None:
    write(setup.folder / "labelsTr" / "case_1.nii.gz", np.ones((7, 10, 12), np.uint8))
    done = store_dataset(setup.cases, setup.hashes, setup.job, setup.stages, Here())
    assert [next(done).id for _ in CASES] == CASES
    with pytest.raises(DatasetError, match=r"case_1.nii.gz does not lie .* \(12, 10, 7\) voxels"):
        next(done)
    assert setup.outdated() == ["case_1"]


def test_worker_processes_store_the_same(setup: Setup, tmp_path: Path) -> None:
    setup.store()
    other = Setup(folder=setup.folder, out=tmp_path / "parallel", plan=setup.plan)
    assert sorted(other.store(workers=2)) == CASES
    for case in CASES:
        mine, theirs = (open_items(s.out / "fine", (case,)) for s in (setup, other))
        for a, b in zip(mine, theirs, strict=True):
            assert a.item == b.item
            np.testing.assert_array_equal(a.image[:], b.image[:])
            np.testing.assert_array_equal(a.labels[:], b.labels[:])


def test_an_unlabelled_case_is_stored_whole_and_without_labels(setup: Setup) -> None:
    case = Case(id="extra", images=setup.cases[0].images, patient="extra")
    scheme: LabelScheme = setup.job.scheme
    job = StoreJob(setup.plan, scheme, setup.out)
    list(store_dataset((case,), {"extra": "hash"}, job, setup.stages, Here()))
    for stage in ("locate", "fine"):
        folder = setup.out / stage
        assert sorted(path.name for path in folder.iterdir()) == [
            "extra.0.image.b2nd",
            "extra.json",
        ]
    # where its kidneys are is not known, so the fine stage sees what the coarse one sees
    coarse, fine = (read_case(setup.out / stage, "extra") for stage in ("locate", "fine"))
    assert coarse is not None
    assert fine is not None
    assert coarse.items[0].box == fine.items[0].box
    assert fine.items[0].structures == {}


def test_unchanged_files_are_not_read_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = setup.hashes
    monkeypatch.setattr(module, "content_hash", lambda *_: pytest.fail("read again"))
    assert setup.hashes == first


def test_a_touched_file_is_read_again_and_found_unchanged(setup: Setup) -> None:
    first = setup.hashes
    os.utime(setup.cases[0].images[0], ns=(5, 5))
    assert setup.hashes == first


def test_only_the_changed_case_gets_another_hash(
    setup: Setup, write: Callable[..., Path], make_scan: Callable[..., np.ndarray]
) -> None:
    first = setup.hashes
    write(setup.folder / "imagesTr" / "case_2_0000.nii.gz", make_scan(77))
    second = setup.hashes
    assert [case for case in CASES if first[case] != second[case]] == ["case_2"]


def test_cases_that_are_gone_leave_the_cache(setup: Setup) -> None:
    _ = setup.hashes
    cache = setup.out / "inputs.json"
    hash_inputs(setup.cases[:1], cache)
    assert list(json.loads(cache.read_text())["cases"]) == ["case_1"]


def test_another_meaning_of_the_files_is_another_hash(setup: Setup) -> None:
    cache = setup.out / "inputs.json"
    kidney = hash_inputs(setup.cases, cache, "kidney = 1")
    assert kidney == hash_inputs(setup.cases, cache, "kidney = 1")
    spleen = hash_inputs(setup.cases, cache, "spleen = 1")
    assert all(kidney[case] != spleen[case] for case in CASES)
