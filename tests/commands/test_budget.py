"""`renalplan_train --budget`: what it says and leaves, a run after a kill, Ctrl-C once and twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from renalplan.files import TEMPORARY
from renalplan.fold_validation import FoldValidation

RESULTS = Path("work/results/Dataset001_Tiny")
SHORT = "--workers 0 --device cpu --set epochs=2 iterations=3 validation_iterations=1"
Run = Callable[[str], Any]


def record(model: str, fold: str = "1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / model / f"fold_{fold}/budget.json").read_text())
    return found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "--budget 6",
            "--budget 6 has no unit: give hours, minutes or seconds: 6h, 90m, 45s, 1h30m.",
        ),
        ("--budget -6h", "--budget"),
        ("--budget 1h --set schedule=constant", "--set schedule=constant: with --budget"),
        ("--budget 1s --device cpu", "fold 1 has 1s and needs at least"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(here: Path, run: Run, line: str, says: str) -> None:
    ran = run(f"train 1 1 UNet --name timed {line}")
    assert ran.status == 2
    assert says in ran.err
    assert not (RESULTS / "timed").exists()


def test_a_fold_is_trained_and_validated_and_its_time_is_on_record(here: Path, run: Run) -> None:
    ran = run(f"train 1 1 UNet --name timed --budget 10m {SHORT}")
    assert ran.status == 0, ran.err
    assert "fold 1: at most whole 2 x 3 steps" in ran.err
    assert "s a step with 0 data workers; about " in ran.err
    assert "6 steps (all that the settings say)" in ran.err
    assert "validation about" in ran.err
    assert "epoch 1 of about" in ran.err
    assert "; over in " in ran.err
    assert " of 10m 00s used" in ran.err
    assert "fold 1: mean Dice of held-out cases: kidney" in ran.out
    found = record("timed")
    assert (found["seconds"], found["over"]) == (600, True)
    assert 0 < found["used"] < 600
    assert (RESULTS / "timed/fold_1/finished.json").is_file()
    assert (RESULTS / "timed/fold_1/validation/summary.json").is_file()

    for budget in ("--budget 20m ", ""):  # there is nothing to do
        ran = run(f"train 1 1 UNet --name timed {budget}{SHORT}")
        assert ran.status == 0
        assert "phase whole is done already" in ran.err
        told = "fold 1 is finished, and more time does not change it; --restart trains it anew."
        assert (told in ran.err) is bool(budget)
        assert record("timed") == found


@pytest.mark.parametrize(("dice", "said"), [(0.0, True), (0.01, False)])
def test_what_training_was_too_short_for_is_named(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, dice: float, said: bool
) -> None:
    monkeypatch.setattr(FoldValidation, "_score", lambda *_: ({"kidney": dice, "fat": 0.9}, None))
    ran = run(f"train 1 1 UNet --name short {SHORT}")
    assert ran.status == 0, ran.err
    nowhere = "fold 1: kidney overlaps with the reference in no held-out case (Dice 0), most often because"
    assert (nowhere in ran.err) is said


def test_all_cases_are_trained_on_and_none_is_validated(here: Path, run: Run) -> None:
    ran = run(f"train 1 all UNet --name timed --budget 10m {SHORT}")
    assert ran.status == 0, ran.err
    assert "validation about 0s" in ran.err
    assert "fold all: trained" in ran.out


def test_folds_share_a_budget_and_leave_the_rest_to_each_other(here: Path, run: Run) -> None:
    ran = run(f"train 1 cv UNet --name timed --budget 10m {SHORT}")
    assert ran.status == 0, ran.err
    first, second = record("timed", "0"), record("timed", "1")
    assert first["seconds"] == 300
    assert second["seconds"] == pytest.approx(600 - first["used"], abs=0.1)


@pytest.mark.parametrize(
    ("begun", "now", "advice"),
    [
        ("--budget 10m", "", "was begun with a budget; give --budget again"),
        ("", "--budget 10m", "was begun without a budget; leave --budget out"),
    ],
)
def test_a_network_goes_on_as_it_began(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, begun: str, now: str, advice: str
) -> None:
    from renalplan.trainers import loop

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(loop, "save_weights", full)
    assert run(f"train 1 1 UNet --name timed {begun} {SHORT}").status == 1
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("RENALPLAN_WORKSPACE", "work")
    ran = run(f"train 1 1 UNet --name timed {now} {SHORT}")
    assert ran.status == 2
    assert advice in ran.err
    assert "--restart" in ran.err
    assert run(f"train 1 1 UNet --name timed {begun} {SHORT}").status == 0


@contextmanager
def running(line: str) -> Iterator[subprocess.Popen[str]]:
    """A training in a process of its own that ends with the block."""
    script = str(Path(sys.executable).with_name("renalplan_train"))
    child = subprocess.Popen(
        [script, *line.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_for(child: subprocess.Popen[str], path: Path) -> None:
    limit = time.monotonic() + 180
    while not path.is_file():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


def said(child: subprocess.Popen[str]) -> str:
    return child.communicate(timeout=180)[1]


LONG = "--device cpu --set iterations=5 validation_iterations=0"


def test_one_signal_anneals_validates_and_finishes(here: Path, run: Run) -> None:
    """Ctrl-C goes to every process of the group, data workers included."""
    fold = RESULTS / "timed/fold_1"
    with running(f"1 1 UNet --name timed --workers 1 --budget 30m {LONG}") as child:
        wait_for(child, fold / "whole/log.csv")
        os.killpg(child.pid, signal.SIGINT)
        err = said(child)
        assert child.returncode == 0, err
    assert "SIGINT: the fold is annealed, validated and finished" in err
    assert err.count("once more stops at once") == 1
    assert "asked to stop: whole is annealed for about" in err
    assert "Traceback" not in err
    rates = [float(line.split(",")[2]) for line in (fold / "whole/log.csv").read_text().split()[1:]]
    assert rates[-1] < 0.3 * max(rates)
    assert (fold / "validation/summary.json").is_file()
    assert record("timed")["over"]
    assert not [path for path in here.rglob("*") if path.name.startswith(TEMPORARY)]
    predicted = run("predict -i work/raw/Dataset001_Tiny/imagesTs -o out -m "
                    f"{RESULTS}/timed --device cpu")  # fmt: skip
    assert predicted.status == 0


STOPPED = f"1 1 UNet --name timed --workers 0 --budget 30m {LONG}"


def stop_twice(first: int, second: int) -> tuple[int, str]:
    """Begin a training, send it two signals; its exit status and what it said from then on."""
    with running(STOPPED) as child:
        wait_for(child, RESULTS / "timed/fold_1/whole/checkpoint.pt")
        child.send_signal(first)
        assert child.stderr is not None
        while "once more stops at once" not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(second)
        err = said(child)
        return child.returncode, err


def test_after_two_signals_the_next_run_goes_on(here: Path) -> None:
    fold = RESULTS / "timed/fold_1"
    status, err = stop_twice(signal.SIGTERM, signal.SIGINT)
    assert status == 130, err
    assert "same command continues" in err
    assert not (fold / "whole/model.safetensors").exists()
    state = torch.load(fold / "whole/checkpoint.pt", weights_only=True)
    assert state["done"] > 0
    used = record("timed")["used"]
    with running(STOPPED) as child:
        log = fold / "whole/log.csv"
        rows = len(log.read_text().split())
        while len(log.read_text().split()) <= rows:
            assert child.poll() is None, child.communicate()
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        err = said(child)
        assert child.returncode == 0, err
    assert f"fold 1 whole: continues after epoch {state['epoch']} of about" in err
    assert record("timed")["used"] > used
    assert (fold / "validation/summary.json").is_file()


def test_stopped_in_the_first_of_two_folds_the_second_is_not_begun(here: Path) -> None:
    with running(f"1 cv UNet --name timed --workers 0 --budget 30m {LONG}") as child:
        wait_for(child, RESULTS / "timed/fold_0/whole/log.csv")
        child.send_signal(signal.SIGTERM)
        err = said(child)
        assert child.returncode == 143, err
    assert "stopped early: not trained: folds 1; the same command continues." in err
    assert (RESULTS / "timed/fold_0/validation/summary.json").is_file()
    assert not (RESULTS / "timed/fold_1").exists()
