"""Memory: what is forecast, what goes into files, what is refused; and labels that do not change."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from renalplan.errors import PredictionError, UsageError
from renalplan.inference import region_room, room
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.room import Room, growth, parse_size, preparing, readable, resident
from renalplan.inference.scans import ScanFiles, find_scans
from renalplan.inference.scratch import Scratch
from renalplan.inference.segmenters import staged
from renalplan.inference.segmenters.coarse_to_fine import CoarseToFineSegmenter
from renalplan.interpolation import Band
from renalplan.model_folder import ModelFolder
from renalplan.resampling import resample_image

CPU = InferenceOptions(device="cpu", engine="torch", precision="fp32")
GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 * GIB),
        ("1.5g", 3 * GIB // 2),
        ("200MiB", 200 << 20),
        ("2048K", 2 << 20),
        ("7777777", 7777777),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text, "--max_ram") == size
    assert parse_size(size, "--max_ram") == size


@pytest.mark.parametrize("text", ["", "four", "-4G", "0", "G", "4GG4", "inf", "nan", "4", "10K"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no size; write for example --max_ram 4G"):
        parse_size(text, "--max_ram")


def test_growth_is_what_a_call_takes_even_if_it_gives_it_back() -> None:
    def take() -> None:
        block = np.ones(60 << 20, np.uint8)
        assert block[-1] == 1
        time.sleep(0.3)  # a network takes its time too

    assert resident() > 0
    assert 50 << 20 < growth(take) < 100 << 20


def test_arrays_go_into_files_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "resident", lambda: 1000)
    place = Room(2000)
    assert place.share("x", 100, [300, 400]) == 400
    assert place.share("x", 500, [300, 400]) == 300
    assert place.share("x", 900, [300, 400]) == 0
    assert place.share("x", 1000, [300, 400]) == 0
    # the first is gone when the rest is made
    assert place.share("x", 100, [300, 400], later=600) == 400
    assert place.share("x", 100, [300, 400], later=601) == 300
    with pytest.raises(PredictionError, match=r"x needs about .* --max_ram allows"):
        place.share("x", 1001, [])


def test_preparing_counts_the_arrays_that_live_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the largest sum of input and output that resampling really holds."""
    from renalplan import resampling

    seen = []
    real = resampling.apply_along

    def spied(volume: np.ndarray, weights: Band, axis: int) -> np.ndarray:
        result = real(volume, weights, axis)
        seen.append(volume.nbytes + result.nbytes)
        return result

    monkeypatch.setattr(resampling, "apply_along", spied)
    for shape in ((24, 10, 16), (6, 30, 8), (12, 20, 16), (30, 40, 50)):
        seen.clear()
        resample_image(np.zeros((2, 12, 20, 16), np.float32), shape)
        expected = max(seen) if seen else 4 * 2 * 12 * 20 * 16
        assert preparing((12, 20, 16), shape, 2) == expected


def test_sizes_are_readable() -> None:
    assert readable(3 * GIB // 2) == "1.50 GiB"
    assert readable(5 << 20) == "5 MiB"


@pytest.fixture
def scan(write_scan: Callable[..., np.ndarray], tmp_path: Path) -> ScanFiles:
    write_scan(tmp_path / "in" / "a_0000.nii.gz", turned=True)
    (found,) = find_scans(tmp_path / "in", ("MR",))
    return found


@pytest.mark.parametrize("eager", [0, 1 << 30])
def test_labels_do_not_depend_on_where_arrays_lie(
    make_model: Callable[..., ModelFolder], scan: ScanFiles, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, eager: int, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    model = make_model(folds=("0", "1"))
    volume = scan.read()
    expected = Predictor.from_model(model, None, CPU).field(volume)
    labels = expected.labels(model.scheme)
    probabilities = expected.slab(0, volume.shape[0])
    assert labels.any()
    monkeypatch.setattr(staged, "EAGER_BYTES", eager)
    given: list[tuple[int, Path | None]] = []
    monkeypatch.setattr(
        region_room, "Scratch", lambda *values: given.append(values) or Scratch(0, tmp_path)
    )
    options = replace(CPU, max_ram=resident() + 2 * GIB, scratch_folder=tmp_path)
    with caplog.at_level(logging.INFO):
        field = Predictor.from_model(model, None, options).field(volume)
        assert torch.equal(field.slab(0, volume.shape[0]), probabilities)
        assert np.array_equal(field.labels(model.scheme), labels)
    assert given
    assert re.search(r"stage whole: about [\d.]+ GiB of memory \([\d.]+ GiB allowed\)", caplog.text)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_too_little_memory_fails_the_case_and_names_it(
    make_model: Callable[..., ModelFolder], scan: ScanFiles, tmp_path: Path
) -> None:
    for limit, says in (
        (1 << 20, r"reading .*a_0000\.nii\.gz alone needs about"),
        (None, "stage whole needs about"),
    ):
        options = replace(CPU, max_ram=limit or resident() + (20 << 20))
        predictor = Predictor.from_model(make_model(f"m{limit}"), None, options)
        report = predictor.predict_folder([scan], tmp_path / f"out{limit}", workers=0)
        assert re.search(says, report.failed["a"])
        assert "--max_ram allows" in report.failed["a"]
        assert not list((tmp_path / f"out{limit}").glob("a*"))


def test_a_kind_of_model_that_does_not_forecast_is_refused(
    make_model: Callable[..., ModelFolder],
) -> None:
    member = object.__new__(CoarseToFineSegmenter)
    member.model, member.options, member.folds = make_model(), replace(CPU, max_ram=GIB), ["0"]
    with pytest.raises(UsageError, match="whose memory is not forecast; leave --max_ram out"):
        Predictor([member])


def test_a_limit_for_a_card_needs_a_card() -> None:
    with pytest.raises(UsageError, match=r"--max_vram is for GPUs, and --device is cpu"):
        replace(CPU, max_vram=GIB).check()
