"""Ends the commands at random moments, again and again, and compares what the next run makes of it.

    python tests/long/torture.py                                   # all, about three hours on one core
    python tests/long/torture.py --commands predict --how kill term --times 5

Too long for `make test`, whose samples are `test_resume`, `test_killed_prediction`, `test_interrupted`
and `test_no_space`. Each command runs on tiny phantoms, undisturbed first. Then, from a fresh copy of what it
starts from, it is disturbed one to three times in a row and run to its end:

    kill    SIGKILL, to the command alone
    term    SIGTERM, to the command alone
    int     Ctrl-C: SIGINT, to all its processes
    worker  SIGKILL, to one of its processes
    full    the disk is full (a tmpfs of a random size; needs the rights to mount one)
    closed  nothing can be written (the same, read-only), after a kill every other time

Nobody may outlive the command, it must say one sentence and no traceback, a signal must end it soon, and at
the end the files must be those of the undisturbed run, byte for byte (arrays in containers: value for
value; without the seconds that things took), with nothing temporary beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from disks import disk
from outcome import compare, contents, leftovers

from renalplan.phantom import make_phantom_dataset

BIN = Path(sysconfig.get_path("scripts"))
NAME = "Dataset901_Torture"
PLAN = "--gpu_memory 0.004 --base_features 4 --cascade none"
SHORT = "--device cpu --set epochs=5 iterations=3 validation_iterations=1"
COMMANDS = {
    "phantom": "phantom made --cases 6 --test_cases 2 --seed 5 --size 24 32 32 --workers 2",
    "preprocess": f"plan_and_preprocess 901 --workspace . {PLAN} --workers 2",
    "train": f"train 901 0 --workspace . --workers 1 {SHORT}",
    "predict": f"predict -i raw/{NAME}/imagesTs -o out -m results/{NAME}/UNet --device cpu "
    "--engine torch --save_probabilities --workers 1",
    "evaluate": f"evaluate out raw/{NAME}/labelsTs -o scores --images raw/{NAME}/imagesTs --workers 2",
}
OUTPUTS = {
    "phantom": "made",
    "preprocess": "preprocessed",
    "train": "results",
    "predict": "out",
    "evaluate": "scores",
}
MOUNTED = ("full", "closed")
HOW = ("kill", "term", "int", "worker", *MOUNTED)
SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT}
SOON = 3.0  # seconds in which a signal must end a command
GONE = 5.0  # and in which its processes must have followed it


@dataclass
class Tally:
    """What was done to a command in one way, and what was wrong afterwards."""

    command: str
    how: str
    disturbed: int = 0
    too_late: int = 0
    rounds: int = 0
    slowest_s: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """A command's own course: seconds until its first file and in all, and its files."""

    first_s: float
    total_s: float
    files: dict[str, object]
    size: int


def main() -> int:
    """Prepare, torture, print the table; status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--how", nargs="+", choices=HOW, default=list(HOW))
    parser.add_argument("--times", type=int, default=30, help="of each, for each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after them")
    parser.add_argument("--work", type=Path, default=Path("torture"))
    parser.add_argument(
        "--again", action="store_true", help="what comes before --commands is as in the last run"
    )
    parser.add_argument("--json", type=Path, help="add the tallies to this file, a line each")
    given = parser.parse_args()
    given.until = time.monotonic() + 60 * given.minutes
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    work = given.work.resolve()
    state = prepare(work)
    tallies = []
    for command in list(COMMANDS)[: 1 + max(list(COMMANDS).index(c) for c in given.commands)]:
        before, after = work / f"before_{command}", work / f"after_{command}"
        if given.again and command not in given.commands and after.is_dir():
            copy_state(after, state)
            continue
        if time.monotonic() > given.until:
            break
        copy_state(state, before)
        undisturbed = watch(command, state)
        copy_state(state, after)
        for how in given.how if command in given.commands else ():
            draw = random.Random(f"{given.seed} {command} {how}")
            tallies.append(torture(command, how, before, work / "now", undisturbed, given, draw))
            print(row(tallies[-1]), *tallies[-1].wrong[:5], sep="\n  ", flush=True)
            if given.json:
                with given.json.open("a") as stream:
                    stream.write(json.dumps(vars(tallies[-1])) + "\n")
    print("\n".join(table(tallies)))
    return int(any(tally.wrong for tally in tallies))


def prepare(work: Path) -> Path:
    """A dataset, and the empty workspace in which everything begins."""
    dataset = work / "raw" / NAME
    if not (dataset / "dataset.json").is_file():
        shutil.rmtree(work, ignore_errors=True)
        make_phantom_dataset(dataset, cases=8, test_cases=8, seed=5, size=(32, 48, 48))
    state = work / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    (state / "raw").symlink_to(work / "raw")
    return state


def copy_state(source: Path, target: Path) -> None:
    """The workspace as it is, with the same times."""
    for inner in target.iterdir() if target.is_dir() else ():
        if inner.is_symlink() or inner.is_file():
            inner.unlink()
        else:
            shutil.rmtree(inner)
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """Begin a command in a workspace."""
    name, *arguments = COMMANDS[command].split()
    with (folder.parent / "stderr.txt").open("w") as stream:
        return subprocess.Popen(
            [str(BIN / f"renalplan_{name}"), *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def said(folder: Path) -> str:
    """What the last command said."""
    return (folder.parent / "stderr.txt").read_text()


def watch(command: str, folder: Path) -> Undisturbed:
    """Run a command as it should be."""
    begin, first = time.monotonic(), 0.0
    child = start(command, folder)
    while child.poll() is None:
        if not first and (folder / OUTPUTS[command]).exists():
            first = time.monotonic() - begin
        time.sleep(0.01)
    if child.returncode != 0:
        raise SystemExit(f"{command} failed undisturbed: {said(folder)}")
    total = time.monotonic() - begin
    size = sum(path.stat().st_size for path in (folder / OUTPUTS[command]).rglob("*"))
    return Undisturbed(first, total, contents(folder / OUTPUTS[command]), size)


def torture(
    command: str,
    how: str,
    before: Path,
    now: Path,
    undisturbed: Undisturbed,
    given: argparse.Namespace,
    draw: random.Random,
) -> Tally:
    """Disturb a command so many times."""
    tally = Tally(command, how)
    output = now / OUTPUTS[command]
    while tally.disturbed < given.times and tally.too_late < 3 * given.times:
        if time.monotonic() > given.until:
            break
        tally.rounds += 1
        where = f"round {tally.rounds}"
        with disk(now, own=how in MOUNTED) as remount:
            copy_state(before, now)
            for _ in range(draw.randint(1, 3) if how not in MOUNTED else 1):
                if tally.disturbed >= given.times:
                    break
                if how == "full":
                    fill(command, now, undisturbed, tally, draw, remount)
                elif how == "closed":
                    close(command, now, undisturbed, tally, draw, remount)
                else:
                    disturb(command, how, now, undisturbed, tally, draw)
            child = start(command, now)
            if child.wait() != 0 and not is_complete(command, now):
                tally.wrong.append(
                    f"{where}: the last run ended with {child.returncode}: {said(now)}"
                )
                continue
            tally.wrong += [f"{where}: {line}" for line in compare(output, undisturbed.files)]
            tally.wrong += [f"{where}: left behind: {path}" for path in leftovers(now)]
    return tally


def is_complete(command: str, now: Path) -> bool:
    """Whether the disturbed run had come to its end, and the next one refuses what it has made."""
    return command == "phantom" and "made is not empty" in said(now)


def disturb(
    command: str,
    how: str,
    now: Path,
    undisturbed: Undisturbed,
    tally: Tally,
    draw: random.Random,
) -> None:
    """Run a command and end it at a moment when it writes, or (one in five) at any."""
    early = draw.random() < 0.2
    moment = draw.uniform(0.0 if early else 0.9 * undisturbed.first_s, undisturbed.total_s)
    child = start(command, now)
    begin = time.monotonic()
    while time.monotonic() - begin < moment and child.poll() is None:
        time.sleep(0.005)
    family = children(child.pid)
    # without Python's own one that counts semaphores: it does no work, and is started again
    workers = [p for p in family if "resource_tracker" not in " ".join(command_line(p))]
    if child.poll() is not None or (how == "worker" and not workers):
        tally.too_late += 1
        child.wait()
        return
    begin = time.monotonic()
    if how == "worker":
        with suppress(psutil.NoSuchProcess):
            draw.choice(workers).kill()
    elif how == "int":
        os.killpg(child.pid, signal.SIGINT)
    else:
        child.send_signal(SIGNALS.get(how, signal.SIGKILL))
    status = child.wait()
    took = time.monotonic() - begin
    tally.disturbed += 1
    tally.statuses[str(status)] += 1
    where = f"{command} {how} after {moment:.2f} s"
    _, alive = psutil.wait_procs(family, timeout=GONE)
    alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    if alive:
        tally.wrong.append(f"{where}: outlived by {[p.cmdline() for p in alive]}")
    if "Traceback" in said(now):
        tally.wrong.append(f"{where}: {said(now)}")
    if how in SIGNALS:
        tally.slowest_s = max(tally.slowest_s, took)
        # before our first line runs, a signal does what it does to every program
        if status not in (0, 128 + SIGNALS[how], -SIGNALS[how]) or took > SOON:
            tally.wrong.append(f"{where}: status {status} after {took:.1f} s: {said(now)}")
        if status == 128 + SIGNALS[how]:
            tally.wrong += [f"{where}: left behind: {path}" for path in leftovers(now)]


def fill(
    command: str,
    now: Path,
    undisturbed: Undisturbed,
    tally: Tally,
    draw: random.Random,
    remount: Callable[[str], None],
) -> None:
    """Run a command on a disk with room for a part of what it writes."""
    room = shutil.disk_usage(now).used + int(draw.uniform(0.02, 0.95) * undisturbed.size)
    remount(f"size={room // 4096 * 4096}")
    child = start(command, now)
    status = child.wait()
    remount("size=1G")
    if status == 0:  # there was room
        tally.too_late += 1
        return
    tally.disturbed += 1
    tally.statuses[str(status)] += 1
    sentences = [line for line in said(now).splitlines() if line.startswith("renalplan_")]
    told = "no space left" in said(now) or "is the disk full?" in said(now)
    if status != 1 or "Traceback" in said(now) or len(sentences) != 1 or not told:
        tally.wrong.append(f"{command} full: status {status}: {said(now)}")
    tally.wrong += [f"{command} full: left behind: {path}" for path in leftovers(now)]


def close(
    command: str,
    now: Path,
    undisturbed: Undisturbed,
    tally: Tally,
    draw: random.Random,
    remount: Callable[[str], None],
) -> None:
    """Run a command where nothing can be written; every other time, where a killed run left something."""
    if tally.rounds % 2 == 0:
        child = start(command, now)
        time.sleep(draw.uniform(0.0, undisturbed.total_s))
        family = children(child.pid)
        child.kill()
        child.wait()
        psutil.wait_procs(family, timeout=GONE)
    before = sorted(now.rglob("*"))
    remount("ro")
    begin = time.monotonic()
    child = start(command, now)
    status = child.wait()
    took = time.monotonic() - begin
    remount("rw")
    if status == 0:  # there was nothing left to do
        tally.too_late += 1
        return
    tally.disturbed += 1
    tally.statuses[str(status)] += 1
    tally.slowest_s = max(tally.slowest_s, took)
    sentences = [line for line in said(now).splitlines() if line.startswith("renalplan_")]
    told = "no permission for" in said(now) or "cannot be made" in said(now)
    if status not in (1, 2) or "Traceback" in said(now) or len(sentences) != 1 or not told:
        tally.wrong.append(f"{command} closed: status {status}: {said(now)}")
    if sorted(now.rglob("*")) != before:
        tally.wrong.append(f"{command} closed: it has changed something")


def command_line(process: psutil.Process) -> list[str]:
    """How it was started; nothing if it has gone."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def children(pid: int) -> list[psutil.Process]:
    """All processes below this one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def row(tally: Tally) -> str:
    """A line of the table."""
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(tally.statuses.items()))
    slowest = f"{tally.slowest_s:.1f}" if tally.slowest_s else ""
    return (
        f"| {tally.command} | {tally.how} | {tally.disturbed} | {tally.rounds} | {statuses} "
        f"| {slowest} | {len(tally.wrong)} |"
    )


def table(tallies: list[Tally]) -> list[str]:
    """A line for each command and each way."""
    head = "| command | how | times | runs to the end | statuses | slowest end, s | wrong |"
    return [head, "|---|---|---|---|---|---|---|", *map(row, tallies)]


if __name__ == "__main__":
    sys.exit(main())
