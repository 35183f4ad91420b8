"""The one file that is read with torch.load belongs to the trainers; what it must not do is here."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from renalplan.errors import TrainingError
from renalplan.trainers.checkpoint import (
    CHECKPOINT,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)


def state(epoch: int = 3) -> TrainingState:
    parameter = torch.nn.Parameter(torch.arange(4.0))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    return TrainingState(
        network={"weight": parameter.detach()},
        optimizer=optimizer.state_dict(),
        epoch=epoch,
        rows=[{"epoch": float(n), "loss": 1 / (n + 1)} for n in range(epoch)],
    )


def test_a_state_comes_back(tmp_path: Path) -> None:
    saved = state()
    save_checkpoint(tmp_path, saved)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.epoch, found.rows) == (3, saved.rows)
    torch.testing.assert_close(found.network, saved.network, rtol=0, atol=0)
    momentum = found.optimizer["state"][0]["momentum_buffer"]
    torch.testing.assert_close(momentum, torch.ones(4))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_a_newer_checkpoint_replaces_the_old_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.epoch == 2


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["pickle", "torch", "torch within a state", "old torch"])
def test_a_pickle_bomb_is_refused_and_executes_nothing(
    tmp_path: Path, bomb: Any, form: str
) -> None:
    path = tmp_path / CHECKPOINT
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif form == "torch":
        torch.save(bomb, path)
    elif form == "old torch":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(vars(state()) | {"optimizer": bomb}, path)
    with pytest.raises(TrainingError, match=r"checkpoint.pt is damaged or not one of ours"):
        load_checkpoint(tmp_path)
    assert not bomb.marker.exists()


@pytest.mark.parametrize("part", [0, 1, 10, 100, 0.5, 0.9, -1])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, part: float) -> None:
    save_checkpoint(tmp_path, state())
    content = (tmp_path / CHECKPOINT).read_bytes()
    end = int(part * len(content)) if isinstance(part, float) else part
    (tmp_path / CHECKPOINT).write_bytes(content[:end])
    with pytest.raises(TrainingError, match=r"checkpoint.pt is damaged .* delete it to train"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"garbage" * 100, b"\x80\x02.", b"PK\x03\x04" + bytes(100)])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(TrainingError, match=r"checkpoint.pt is damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [{"epoch": 1}, {"surprise": 1}, [1, 2], 7])
def test_plain_values_that_are_no_state_are_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match=r"not one of ours"):
        load_checkpoint(tmp_path)
