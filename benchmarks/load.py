"""Memory, open files, processes and time of check, preprocess, predict and evaluate over many small cases.

    python benchmarks/load.py                                  # 500 cases of 16 x 24 x 24 voxels
    python benchmarks/load.py --cases 40 --plot load.svg       # a trial

Each command runs once; check and evaluate, which write nothing until they end, also on a quarter and on half of
the cases. Twice a second a command's processes are looked at: resident memory and open file
handles of the command itself (and of its workers together), and how many processes there are. How many
cases are done is told by the files that it writes; where it writes none, by the share of the time gone.

Flat: the command's own memory in the last tenth of its cases is at most a twentieth, or 16 MB, above that after
its first fifth. No leak: in the last tenth mostly as many handles and processes as at most after the first fifth
(a file that is just being written counts too). Linear: the second half of the cases takes at most 1.15 times as
long as the first, or half a second more; for check and evaluate a case beyond the half takes at most so much
longer than one beyond the quarter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import SimpleITK as sitk

BIN = Path(sysconfig.get_path("scripts"))
NAME = "Dataset902_Load"
POLL_S = 0.5
MEMORY_TOLERANCE, MEMORY_FLOOR = 1.05, 16e6
TIME_TOLERANCE = 1.15


@dataclass(frozen=True)
class Look:
    """What there was at a moment.

    Attributes:
        seconds: Since the command began.
        done: Cases that were done; None where nothing tells.
        own_bytes: Resident memory of the command itself.
        own_handles: File handles that it has open.
        all_bytes: Memory of all its processes.
        processes: How many they are.
    """

    seconds: float
    done: int | None
    own_bytes: int
    own_handles: int
    all_bytes: int
    processes: int


def main() -> int:
    """Make the cases, run the commands, print what was found; status 1 if something grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--size", type=int, nargs=3, default=[16, 24, 24], help="voxels")
    parser.add_argument("--workers", type=int, default=1, help="of each command")
    parser.add_argument("--work", type=Path, default=Path("load_benchmark"))
    parser.add_argument("--plot", type=Path, help="draw what was seen into this file")
    parser.add_argument("--json", type=Path, help="what was seen, to draw or judge again")
    given = parser.parse_args()
    work = given.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    make_cases(work / "raw" / NAME, given.cases, tuple(given.size))
    seen: dict[str, list[Look]] = {}
    parts: dict[str, tuple[float, float]] = {}
    for name, (line, done) in commands(work, given.cases, given.workers).items():
        begin = time.monotonic()
        looks = watch(line, work, done)
        seen[name] = [*looks, last(looks, time.monotonic() - begin, given.cases)]
        if done is None:
            parts[name] = halves_by_parts(line, work, given.cases, seen[name][-1].seconds)
        if name == "preprocess":
            train(work)
    if given.json:
        given.json.write_text(json.dumps({k: [asdict(v) for v in seen[k]] for k in seen}))
    lines, grown = table(seen, parts, given.cases)
    print("\n".join(lines))
    if given.plot:
        draw(seen, given.plot, given.cases)
    return int(grown)


def make_cases(folder: Path, count: int, size: tuple[int, ...]) -> None:
    """A bright ball in a body in air, elsewhere in each case, and the dataset's description."""
    z, y, x = np.mgrid[: size[0], : size[1], : size[2]]
    rng = np.random.default_rng(0)
    for number in range(count):
        middle = [n / 2 + rng.uniform(-n / 8, n / 8) for n in size]
        ball = sum(
            ((axis - c) / (n / 4)) ** 2 for axis, c, n in zip((z, y, x), middle, size, strict=True)
        )
        body = (y - size[1] / 2) ** 2 + (x - size[2] / 2) ** 2 < (0.45 * size[1]) ** 2
        scan = np.where(ball < 1, 200, np.where(body, 40, -1000)) + rng.normal(0, 5, size)
        write(folder / f"imagesTr/case_{number:04}_0000.nii.gz", scan.astype(np.float32))
        write(folder / f"labelsTr/case_{number:04}.nii.gz", (ball < 1).astype(np.uint8))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def write(path: Path, array: np.ndarray) -> None:
    """An array (z, y, x) of 4 x 4 x 4 mm voxels as NIfTI."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 4.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def commands(
    work: Path, cases: int, workers: int
) -> dict[str, tuple[str, Callable[[], int] | None]]:
    """Name -> command line, and what tells how many cases are done."""
    raw = f"raw/{NAME}"
    plan = "--gpu_memory 0.004 --base_features 4 --cascade none"
    predict = f"predict -i {raw}/imagesTr -o out -m results/{NAME}/UNet --device cpu --engine torch"

    def stored() -> int:
        return len(list(work.glob(f"preprocessed/{NAME}/renal/*/case_*.json")))

    def predicted() -> int:
        return len(list(work.glob("out/*.nii.gz")))

    return {
        "check": (f"check {raw} --workers {workers}", None),
        "preprocess": (
            f"plan_and_preprocess 902 --workspace . {plan} --workers {workers}", stored,
        ),
        "predict": (f"{predict} --workers {workers}", predicted),
        "evaluate": (f"evaluate out {raw}/labelsTr -o scores --workers {workers}", None),
    }  # fmt: skip


def train(work: Path) -> None:
    """A model that has hardly learned anything takes as long as any other."""
    few = {"train": [f"case_{n:04}" for n in range(1, 3)], "val": ["case_0000"]}
    splits = work / f"preprocessed/{NAME}/splits.json"
    splits.write_text(json.dumps({"folds": [few]}))
    settings = "epochs=1 iterations=10 validation_iterations=0"
    line = f"train 902 0 --workspace . --device cpu --workers 0 --set {settings}"
    watch(line, work, None)


def watch(line: str, work: Path, done: Callable[[], int] | None) -> list[Look]:
    """Run a command and look at it until it ends."""
    name, *arguments = line.split()
    begin = time.monotonic()
    looks: list[Look] = []
    with (work / f"{name}.txt").open("w") as log:
        child = psutil.Popen(
            [str(BIN / f"renalplan_{name}"), *arguments],
            cwd=work, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while child.poll() is None:
            try:
                looks.append(look(child, time.monotonic() - begin, done))
            except psutil.Error:  # it is just ending
                break
            time.sleep(POLL_S)
    if child.wait() != 0:
        raise SystemExit(f"{line} failed: see {log.name}")
    return looks


def look(child: psutil.Process, seconds: float, done: Callable[[], int] | None) -> Look:
    """What there is now."""
    with child.oneshot():
        own, handles = child.memory_info().rss, child.num_fds()
    total, processes = own, 1
    for process in child.children(recursive=True):
        try:
            total += process.memory_info().rss
            processes += 1
        except psutil.Error:
            continue
    return Look(seconds, done() if done else None, own, handles, total, processes)


def last(looks: list[Look], seconds: float, cases: int) -> Look:
    """The end: all cases are done, the rest is as it was."""
    values = asdict(looks[-1]) | {"seconds": seconds, "done": cases}
    return Look(**values)


def course(looks: list[Look], cases: int) -> list[tuple[float, Look]]:
    """Looks with the cases done by then, from the first case on."""
    end = looks[-1].seconds
    known = [(cases * v.seconds / end if v.done is None else float(v.done), v) for v in looks]
    return [(done, v) for done, v in known if done > 0]


def halves_by_parts(line: str, work: Path, cases: int, whole_s: float) -> tuple[float, float]:
    """Seconds that the first and the second half of the cases take, without starting.

    Args:
        line: The command, whose dataset and whose folder `out` are replaced by a part of them.
        work: Where it runs.
        cases: How many there are.
        whole_s: What they take.
    """
    took = []
    for share in (4, 2):
        part = link_part(work, cases // share)
        begin = time.monotonic()
        watch(
            line.replace(f"raw/{NAME}", f"{part}/{NAME}").replace(" out ", f" {part}/out "),
            work,
            None,
        )
        took.append(time.monotonic() - begin)
    return 2 * (took[1] - took[0]), whole_s - took[1]


def link_part(work: Path, count: int) -> str:
    """The first cases of the dataset, and their segmentations, by links."""
    part = work / f"first_{count}"
    for folder, inner in ((work / "raw" / NAME, ("imagesTr", "labelsTr")), (work, ("out",))):
        for name in inner:
            target = part / (NAME if name != "out" else "") / name
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted((folder / name).glob("*.nii.gz"))[:count]:
                if not (target / path.name).exists():
                    (target / path.name).symlink_to(path)
    text = json.loads((work / "raw" / NAME / "dataset.json").read_text())
    (part / NAME / "dataset.json").write_text(json.dumps(text | {"numTraining": count}))
    return part.name


def table(
    seen: dict[str, list[Look]], parts: dict[str, tuple[float, float]], cases: int
) -> tuple[list[str], bool]:
    """A line a command, and whether anything grew."""
    lines = [
        "| command | s in all | first half, s | second half, s | own MB after a fifth, at the end "
        "| handles | processes | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    grown = False
    for name, looks in seen.items():
        known = course(looks, cases)
        early = [v for done, v in known if 0.2 * cases <= done <= 0.3 * cases]
        late = [v for done, v in known if done >= 0.9 * cases]
        if not early or not late:
            lines.append(f"| {name} | {looks[-1].seconds:.1f} | too quick to tell ||||||")
            continue
        memory = [max(v.own_bytes for v in part) for part in (early, late)]
        handles = [max(v.own_handles for v in early), median(v.own_handles for v in late)]
        processes = [max(v.processes for v in early), median(v.processes for v in late)]
        first, second = parts[name] if name in parts else halves_of(known, cases)
        wrong = [
            *(["memory"] if memory[1] > max(MEMORY_TOLERANCE * memory[0], memory[0] + MEMORY_FLOOR) else []),
            *(["handles"] if handles[1] > handles[0] else []),
            *(["processes"] if processes[1] > processes[0] else []),
            *(["time"] if second > max(TIME_TOLERANCE * first, first + 0.5) else []),
        ]  # fmt: skip
        grown = grown or bool(wrong)
        took = f"| {first:.1f} | {second:.1f} |"
        lines.append(
            f"| {name} | {looks[-1].seconds:.1f} {took} {memory[0] / 1e6:.0f}, {memory[1] / 1e6:.0f} "
            f"| {handles[0]}, {handles[1]:.0f} | {processes[0]}, {processes[1]:.0f} "
            f"| {'grows: ' + ', '.join(wrong) if wrong else 'flat'} |"
        )
    return lines, grown


def halves_of(known: list[tuple[float, Look]], cases: int) -> tuple[float, float]:
    """Seconds from the first tenth of the cases to the middle, and from there as many cases on."""
    done = [count for count, _ in known]
    seconds = [v.seconds for _, v in known]
    at = [float(np.interp(share * cases, done, seconds)) for share in (0.1, 0.5, 0.9)]
    return at[1] - at[0], at[2] - at[1]


def draw(seen: dict[str, list[Look]], path: Path, cases: int) -> None:
    """Memory, handles and time against cases, a line a command."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, handles, seconds) = pyplot.subplots(1, 3, figsize=(11, 3.2))
    for name, looks in seen.items():
        known = thinned(course(looks, cases))
        done = [count for count, _ in known]
        memory.plot(done, [v.own_bytes / 1e6 for _, v in known], label=name)
        handles.plot(done, [v.own_handles for _, v in known])
        if looks[0].done is not None:
            seconds.plot(done, [v.seconds for _, v in known], label=name)
    for axes, title in (
        (memory, "memory of the command, MB"), (handles, "open files"), (seconds, "seconds"),
    ):  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("cases done", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
    memory.legend(fontsize=7)
    seconds.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def thinned(known: list[tuple[float, Look]], most: int = 200) -> list[tuple[float, Look]]:
    """At most so many points, so that the file stays small."""
    return known[:: max(1, len(known) // most)]


if __name__ == "__main__":
    sys.exit(main())
