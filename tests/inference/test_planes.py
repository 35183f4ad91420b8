"""Planes given away one after the other are those of the whole; nothing depends on where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from renalplan.errors import PredictionError
from renalplan.inference import scratch as scratch_module
from renalplan.inference import sliding_window
from renalplan.inference.disagreement import disagreement
from renalplan.inference.engines.engine import Engine
from renalplan.inference.planes import StoredPlanes, StreamedPlanes
from renalplan.inference.scratch import Scratch, release
from renalplan.inference.sliding_window import IN_MEMORY, Skipping, WindowPredictor


class Blur(Engine):
    """Two heads: the mean of the window, and the value itself; counts its calls."""

    def __init__(self, factor: float = 1.0, room: int = 1 << 30) -> None:
        self.device = torch.device("cpu")
        self.factor, self.room, self.calls = factor, room, 0

    def __call__(self, patches: Tensor) -> Tensor:
        self.calls += 1
        if len(patches) > self.room:
            raise torch.OutOfMemoryError("the card is full")
        mean = patches.mean((2, 3, 4), keepdim=True).expand_as(patches)
        return self.factor * torch.cat([mean, patches], 1)


def volume(*shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))


def in_one_piece(image: Tensor, patch: tuple[int, int, int], step: float, engine: Engine) -> Tensor:
    """Every window at once, by the book; volumes at least as large as the patch."""
    from renalplan.inference.placing import gaussian_weights, window_rows

    total = torch.zeros(2, *image.shape[1:], dtype=torch.float64)
    weight = torch.zeros(image.shape[1:], dtype=torch.float64)
    gauss = gaussian_weights(patch).double()
    for _, places in window_rows(tuple(image.shape[1:]), patch, step):  # type: ignore[arg-type]
        for place in places:
            logits = engine(image[(slice(None), *place)][None])[0].double()
            total[(slice(None), *place)] += logits * gauss
            weight[place] += gauss
    return (total / weight).float()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(4, 15), st.integers(3, 9), st.integers(3, 9)),
    st.tuples(st.integers(1, 4), st.integers(2, 3), st.integers(2, 3)),
    st.sampled_from([0.25, 0.5, 0.8, 1.0]),
)
def test_planes_follow_each_other_and_are_those_of_the_whole(
    shape: tuple[int, int, int], patch: tuple[int, int, int], step: float
) -> None:
    image = volume(*shape)
    parts = list(WindowPredictor([Blur()], patch, 2, step=step).planes(image))
    assert max(part.shape[1] for part in parts) <= patch[0]
    torch.testing.assert_close(torch.cat(parts, 1), in_one_piece(image, patch, step, Blur()))


def test_sums_in_a_file_are_sums_in_memory(tmp_path: Path) -> None:
    image = volume(17, 9, 8)
    expected = WindowPredictor([Blur()], (6, 4, 4), 2)(image)
    found = WindowPredictor([Blur()], (6, 4, 4), 2, scratch=Scratch(0, tmp_path))(image)
    assert torch.equal(found, expected)
    assert list(tmp_path.iterdir()) == []


def test_the_mean_of_folds_is_the_mean_of_their_logits() -> None:
    image = volume(9, 8, 7)
    folds = [Blur(1.0), Blur(3.0)]
    mean = WindowPredictor(folds, (4, 4, 4), 2)(image)
    torch.testing.assert_close(mean, 2 * WindowPredictor([Blur()], (4, 4, 4), 2)(image))


@pytest.mark.parametrize("exclusive", [True, False])
def test_disagreement_is_the_mutual_information(exclusive: bool) -> None:
    """Against the definition, the mean divergence of each network from the mean."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 1, 4, 2, 3, 2)) * 2
    found = disagreement([torch.from_numpy(part) for part in logits], exclusive=exclusive).numpy()
    if exclusive:
        p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
        expected = (p * np.log2(p / p.mean(0))).sum(2).mean(0)
    else:
        p = 1 / (1 + np.exp(-logits))
        q = 1 - p
        both = p * np.log2(p / p.mean(0)) + q * np.log2(q / q.mean(0))
        expected = both.mean(0).mean(1)
    assert found.shape == (1, 1, 2, 3, 2)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-9)
    same = [torch.from_numpy(logits[0])] * 3
    assert float(disagreement(same, exclusive=exclusive).abs().max()) < 1e-9


def test_networks_that_disagree_are_noticed_where_they_do() -> None:
    image = torch.zeros(1, 8, 8, 8)
    image[:, :, :, 5:] = 10
    predict = WindowPredictor([Blur(1.0), Blur(-1.0)], (8, 8, 8), 2, exclusive=True)
    assert predict.outputs == 3
    found = predict(image)[2]
    assert float(found.min()) >= 0
    assert found[..., 5:].mean() > 0.9  # of one bit
    alone = WindowPredictor([Blur(1.0)], (8, 8, 8), 2, exclusive=True)(image)[2]
    assert not alone.any()


def test_skipped_windows_change_nothing_elsewhere() -> None:
    image = volume(12, 12, 12)
    patch = (4, 4, 4)
    whole = WindowPredictor([Blur()], patch, 2)(image)
    skipped: list[tuple] = []

    def wanted(box: tuple) -> bool:
        air = all(b <= 8 for _, b in box)
        if air:
            skipped.append(box)
        return not air

    engine = Blur()
    skip = Skipping(wanted=wanted, outside=torch.tensor([20.0, -20.0]))
    calls: list[tuple[int, int]] = []
    predict = WindowPredictor([engine], patch, 2)
    parts = predict.planes(image, lambda *count: calls.append(count), skip)
    found = torch.cat(list(parts), 1)
    assert calls[-1] == (125, 125)
    assert len(skipped) == 27
    assert engine.calls == 125 - 27
    touched = torch.zeros(image.shape[1:], dtype=torch.bool)
    for box in skipped:
        touched[tuple(slice(a, b) for a, b in box)] = True
    assert torch.equal(found[:, ~touched], whole[:, ~touched])
    nowhere = torch.zeros_like(touched)
    nowhere[:6, :6, :6] = True  # a later window begins at 6
    assert (found[0][nowhere] == 20).all()
    assert (found[1][nowhere] == -20).all()


def test_when_a_card_is_full_fewer_windows_are_computed_at_a_time() -> None:
    image = volume(9, 8, 8)
    expected = WindowPredictor([Blur()], (4, 4, 4), 2)(image)
    predict = WindowPredictor([Blur(room=2)], (4, 4, 4), 2, batch=8)
    assert torch.equal(predict(image), expected)
    assert predict.batch == 2


def test_a_patch_that_does_not_fit_at_all_is_said() -> None:
    predict = WindowPredictor([Blur(room=0)], (4, 4, 4), 2, batch=4)
    with pytest.raises(PredictionError, match="one patch of 4 x 4 x 4 does not fit on the card"):
        predict(volume(5, 5, 5))


def test_the_scan_and_then_the_sums_leave_a_full_card(monkeypatch: pytest.MonkeyPatch) -> None:
    image = volume(9, 8, 8)
    expected = WindowPredictor([Blur()], (4, 4, 4), 2)(image)
    engine = Blur(room=0)
    left: list[str] = []

    def leave(self: object) -> bool:
        left.append(type(self).__name__)
        engine.room = int(len(left) == 2)
        return True

    for name in ("_Image", "_Sums"):
        monkeypatch.setattr(sliding_window, name, type(name, (getattr(sliding_window, name),), {}))
    monkeypatch.setattr(sliding_window._Sums, "leave_card", leave)
    monkeypatch.setattr(sliding_window._Image, "leave_card", lambda self: not left and leave(self))
    assert torch.equal(WindowPredictor([engine], (4, 4, 4), 2)(image), expected)
    assert left == ["_Image", "_Sums"]


def _parts(whole: Tensor, *sizes: int) -> Iterator[Tensor]:
    yield from whole.split(list(sizes), 1)


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_stored_and_streamed_planes_are_alike(limit: int, tmp_path: Path) -> None:
    whole = 300 * torch.randn(2, 9, 4, 5)
    stored = StoredPlanes(_parts(whole, 3, 4, 2), 2, (9, 4, 5), (0, 2, 1), Scratch(limit, tmp_path))
    starts = []

    def start() -> Iterator[Tensor]:
        starts.append(1)
        return _parts(whole, 1, 6, 2)

    streamed = StreamedPlanes(start, 9, (0, 2, 1))
    expected = whole.half().float().permute(0, 1, 3, 2)
    for first, stop in ((0, 2), (1, 4), (3, 9)):
        for planes in (stored, streamed):
            assert planes.depth == 9
            assert torch.equal(planes.planes(first, stop), expected[:, first:stop])
    assert len(starts) == 1
    assert torch.equal(streamed.planes(0, 1), expected[:, :1])  # passed: computed anew
    assert len(starts) == 2


def test_numbers_beyond_float16_stay_numbers() -> None:
    whole = torch.tensor([1e6, -1e6]).reshape(2, 1, 1, 1)
    stored = StoredPlanes(_parts(whole, 1), 2, (1, 1, 1), (0, 1, 2), IN_MEMORY)
    assert stored.planes(0, 1).flatten().tolist() == [65504.0, -65504.0]


def test_a_stream_along_another_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="the plan's axis 1, not its first"):
        StreamedPlanes(lambda: iter(()), 3, (1, 0, 2))


def test_scratch_files_have_no_name_and_keep_their_numbers(tmp_path: Path) -> None:
    array = Scratch(100, tmp_path).zeros((30, 40), np.float32)
    assert not array.any()
    array[:] = 7
    release(array)
    assert (array == 7).all()
    assert list(tmp_path.iterdir()) == []
    small = Scratch(100, tmp_path).zeros((5, 5), np.float32)
    release(small)  # nothing to do
    assert not small.any()


def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch_module.os, "posix_fallocate", full)
    with pytest.raises(PredictionError, match=r"has no room for 4\.0 GB of intermediate results"):
        Scratch(0, tmp_path).zeros((10**9,), np.float32)
    assert list(tmp_path.iterdir()) == []
