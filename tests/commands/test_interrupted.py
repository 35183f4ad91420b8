"""Ctrl-C and SIGTERM while a command works: a sentence, a shell's status, nobody and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from renalplan.files import TEMPORARY

DATASET = "Dataset001_Tiny"
MODEL = Path("work/results") / DATASET / "long"
TRAIN = (
    "train 1 1 --name long --workers 1 --device cpu --set epochs=100000 iterations=2 "
    "validation_iterations=0"
)
PREDICT = "predict -i scans -o out --device cpu --engine torch --workers 1"
Run = Callable[[str], Any]


def copies(here: Path, folder: str, target: str, count: int) -> Path:
    """A folder of so many scans, or label maps: the command is busy for a while."""
    original = next((here / f"work/raw/{DATASET}" / folder).iterdir())
    (here / target).mkdir()
    channel = "_0000" if folder == "imagesTs" else ""
    for number in range(count):
        copy = here / target / f"case_{number:03}{channel}.nii.gz"
        copy.write_bytes(original.read_bytes())
    return here / target


def interrupted(
    line: str, begun: Path, number: int, *, group: bool
) -> tuple[int, str, list[psutil.Process]]:
    """Run a command, send a signal once a file is there; its status, what it said, its children."""
    name, *arguments = line.split()
    child = subprocess.Popen(
        [str(Path(sys.executable).with_name(f"renalplan_{name}")), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 120
        while not begun.exists():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < limit
            time.sleep(0.01)
        family = psutil.Process(child.pid).children(recursive=True)
        (os.killpg if group else os.kill)(child.pid, number)
        err = child.communicate(timeout=60)[1]
        return child.returncode, err, family
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def end(family: list[psutil.Process]) -> None:
    """Wait until they have ended, which takes the system a moment."""
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("line", "begun", "number", "group"),
    [
        pytest.param(
            TRAIN, MODEL / "fold_1/whole/checkpoint.pt", signal.SIGINT, True, id="train, Ctrl-C"
        ),
        pytest.param(
            TRAIN, MODEL / "fold_1/whole/checkpoint.pt", signal.SIGTERM, True, id="train, timeout"
        ),
        pytest.param(PREDICT, Path("out/case_001.nii.gz"), signal.SIGTERM, False, id="predict"),
    ],
)
def test_a_command_ends_in_good_order(
    here: Path, run: Run, line: str, begun: Path, number: signal.Signals, group: bool
) -> None:
    """Ctrl-C goes to every process of the group, and so does the SIGTERM of `timeout` and SLURM."""
    if line == PREDICT:
        copies(here, "imagesTs", "scans", 40)
    status, err, family = interrupted(line, here / begun, number, group=group)
    assert status == 128 + number, err
    name = f"renalplan_{line.split()[0]}"
    sentence = f"{name}: {signal.Signals(number).name}: interrupted; the same command continues."
    assert [text for text in err.splitlines() if text.startswith("renalplan_")] == [sentence]
    assert "Traceback" not in err
    assert "caught exception" not in err
    assert family, "it had a process to read or to make batches"
    end(family)
    left = [path.name for path in here.rglob(".*") if path.is_file()]
    assert not [name for name in left if name.startswith(TEMPORARY) or name.endswith(".lock")]
    if line == PREDICT:
        ran = run(line)
        assert ran.status == 0
        assert "were there already" in ran.out


def test_workers_that_preprocess_end_with_the_command(here: Path, run: Run) -> None:
    """Both ways: they are told when it is interrupted, and follow it when it is killed."""
    raw = here / f"work/raw/{DATASET}"
    for number in range(2, 60):
        for folder, channel in (("imagesTr", "_0000"), ("labelsTr", "")):
            first = raw / folder / f"case_0{channel}.nii.gz"
            (raw / folder / f"case_{number}{channel}.nii.gz").symlink_to(first)
    description = (raw / "dataset.json").read_text()
    (raw / "dataset.json").write_text(description.replace(': 2,\n "file', ': 60,\n "file'))
    stage = here / f"work/preprocessed/{DATASET}/renal/whole"
    line = "plan_and_preprocess 1 --workers 2"
    status, err, family = interrupted(line, stage / "case_2.json", signal.SIGINT, group=True)
    assert status == 130, err
    assert "Traceback" not in err
    assert len(family) >= 2
    end(family)
    assert not [path for path in (here / "work").rglob(f"{TEMPORARY}*")]
    done = len(list(stage.glob("case_*.json")))
    begun = (
        stage / f"case_{next(n for n in range(60) if not (stage / f'case_{n}.json').exists())}.json"
    )
    status, err, family = interrupted(line, begun, signal.SIGKILL, group=False)
    assert status == -signal.SIGKILL
    end(family)
    ran = run("plan_and_preprocess 1 --workers 0")
    assert ran.status == 0, ran.err
    assert len(list(stage.glob("case_*.json"))) == 60 > done
    assert not [path for path in (here / "work").rglob(".*") if path.is_file()]


def test_scoring_ends_in_good_order(here: Path, run: Run) -> None:
    """It writes at its end alone, so that nothing says how far it is; the second run finds no lock."""
    copies(here, "labelsTs", "found", 300)
    line = "evaluate found found -o scores"
    status, err, _ = interrupted(
        line, here / "scores/.evaluation.lock", signal.SIGTERM, group=False
    )
    assert status == 143, err
    assert err == "renalplan_evaluate: SIGTERM: interrupted; the same command continues.\n"
    assert not (here / "scores").exists()


IMPORTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "renalplan.cli.training":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
{before}
import renalplan.cli
{after}
"""


@pytest.mark.parametrize(
    ("before", "after", "status", "says"),
    [
        ("", "", -signal.SIGINT, ""),
        ("signal.signal(signal.SIGINT, lambda *_: print('mine'))", "", 0, "mine\n"),
        (
            "sys.meta_path.pop(0)",
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler",
            0,
            "",
        ),
    ],
)
def test_ctrl_c_while_a_command_is_being_imported(
    before: str, after: str, status: int, says: str
) -> None:
    """It ends without a word; a program that has a way of its own keeps it, and afterwards all is as it was."""
    code = IMPORTED.format(before=before, after=after)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, says, "")
