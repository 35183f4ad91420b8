"""Two folders of label maps -> per_case.csv, summary.json and summary.html.

Decides which files belong together and what happens to those without a partner; scores are
`cases`' business, averages `aggregate`'s, the page `summary`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from renalplan.errors import DatasetError, RenalplanError, UsageError
from renalplan.evaluation.aggregate import Summary, by_case, summarise, to_table
from renalplan.evaluation.asked import choose_structures
from renalplan.evaluation.cases import evaluate_case, find_label_maps, missed_case
from renalplan.evaluation.columns import Row
from renalplan.evaluation.order import require_order
from renalplan.evaluation.pictures import Sources, draw_cases, find_scans
from renalplan.evaluation.structures import Structures
from renalplan.evaluation.summary import summary_page
from renalplan.evaluation.tables import PER_CASE, write_table
from renalplan.evaluation.tolerance import parse_tolerance
from renalplan.executors import open_executor
from renalplan.files import real_path, remove_leftovers, write_json, write_pieces
from renalplan.labels import LabelScheme
from renalplan.locks import hold
from renalplan.outputs import require_own
from renalplan.parallel import CaseExecutor, map_cases, of_case

logger = logging.getLogger(__name__)

SUMMARY, PAGE = "summary.json", "summary.html"
SHOWN = 12  # names or problems listed in one message


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What evaluating two folders found.

    Attributes:
        table: One row for each case and structure, columns `cases.COLUMNS`.
        summary: The numbers over all cases, as in summary.json.
        files: What was written, in order; empty if nothing was.
    """

    table: pd.DataFrame
    summary: Summary
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case's files; no prediction means that it is missing."""

    case: str
    reference: Path
    prediction: Path | None


def evaluate_folders(
    predictions: str | Path,
    references: str | Path,
    scheme_or_dataset_json: LabelScheme | Path | None = None,
    out: str | Path | None = None,
    images: str | Path | None = None,
    workers: int | None = None,
    *,
    dask: str | None = None,
    cases: Collection[str] | None = None,
    pictures: int | None = 12,
    labels: Sequence[str] = (),
    tolerance: Sequence[str] = (),
) -> Evaluation:
    """Score every reference case; predictions are found by file name without its ending.

    Args:
        predictions: Folder of predicted label files, any format we read.
        references: Folder of reference label files, formats may differ.
        scheme_or_dataset_json: What the labels mean; None looks for dataset.json beside the
            references, else takes the values that occur.
        out: Folder for per_case.csv, summary.json and summary.html; None writes nothing.
        images: Folder of the scans (`case_0000.nii.gz` or `case.nii.gz`) for the pictures.
        workers: Processes; 0 or None computes here.
        dask: Address of a dask scheduler whose workers score and draw instead; they must see the
            files under the same names, and `workers` must be None.
        cases: The reference cases to score, e.g. one fold's; None scores all.
        pictures: How many cases the page shows, the worst ones first; 0 for none, None for all.
        labels: Which structures, in the words of `--labels`; none: all there are.
        tolerance: Of the surface Dice, in the words of `--tolerance`.

    Returns:
        Table and summary. A reference without prediction counts as a failed case (score 0,
        distance the scan's diagonal, noted `missing`); a prediction without reference is reported
        and counts nowhere.

    Raises:
        UsageError: the folders look swapped or have no case in common, `cases` names one without
            reference, the cluster cannot do it, another run evaluates into `out`, it is the folder of the
            references or images or holds somebody else's files of these names, or `labels` or `tolerance`
            are not what they have to be.
        DatasetError: files that are unreadable, on different grids or with undeclared labels;
            all of them are named and nothing is written.
        WorkerError: a worker process died, or the cluster is gone.
    """
    predictions, references = Path(predictions), Path(references)
    require_order(predictions, references)
    tolerated = parse_tolerance(tolerance)
    if dask is not None:
        predictions, references = predictions.absolute(), references.absolute()
        images = Path(images).absolute() if images else None
    out = _checked(Path(out), references, images) if out else None
    if workers is None and dask is None:
        workers = 0
    # before `out` is made: it may be the folder of the predictions, which has to be there
    pairs, extra = pair_files(predictions, references, cases)
    scans = find_scans(Path(images)) if images else {}
    files = [p for pair in pairs for p in (pair.reference, pair.prediction) if p is not None]
    with ExitStack() as stack:
        if out is not None:
            what = f"an evaluation is being written into {out}"
            stack.enter_context(hold(out, "evaluation", what, ", or choose another folder"))
            remove_leftovers(out, (PER_CASE, SUMMARY, PAGE))
        seen = (*files[:1], *files[-1:], *list(scans.values())[:1])
        executor = stack.enter_context(open_executor(workers, dask, reads=seen))
        structures = choose_structures(scheme_or_dataset_json, labels, tolerated, references, files)
        rows = _score_all(pairs, structures, executor)
        result = _summarised(rows, pairs, extra, structures)
        if out is None:
            return result
        sources = [
            Sources(
                case=p.case, reference=p.reference, prediction=p.prediction, scan=scans.get(p.case)
            )
            for p in pairs
        ]
        return _write(result, out, sources, structures, pictures, executor)


def _checked(out: Path, references: Path, images: str | Path | None) -> Path:
    """The output, which is not among the data and replaces nobody else's tables (UsageError)."""
    for what, folder in (("references", references), ("images", images)):
        if folder and real_path(out) == real_path(Path(folder)):
            raise UsageError(f"output {out} is the folder of the {what}; give another one with -o.")
    table, summary, page = _files(out)
    require_own(summary, Summary, table, page)
    return out


def _files(out: Path) -> tuple[Path, Path, Path]:
    return out / PER_CASE, out / SUMMARY, out / PAGE


def _summarised(
    rows: list[Row], pairs: list[Pair], extra: tuple[str, ...], structures: Structures
) -> Evaluation:
    missing = tuple(pair.case for pair in pairs if pair.prediction is None)
    table = to_table(rows)
    summary = summarise(table, missing=missing, extra=extra, structure_source=structures.source)
    if missing:
        logger.warning("without prediction, counted as 0 (%d): %s", len(missing), _list(missing))
    if extra:
        logger.warning("predictions without a reference (%d): %s", len(extra), _list(extra))
    return Evaluation(table=table, summary=summary)


def pair_files(
    predictions: Path, references: Path, cases: Collection[str] | None = None
) -> tuple[list[Pair], tuple[str, ...]]:
    """Reference cases with their predictions, and the ids of predictions without a reference.

    Raises:
        UsageError: as `evaluate_folders`.
    """
    truth, found = find_label_maps(references), find_label_maps(predictions)
    if cases is not None:
        if unknown := sorted(set(cases) - truth.keys()):
            raise UsageError(f"{references} has no reference for {_list(unknown)}.")
        truth = {case: path for case, path in truth.items() if case in set(cases)}
    if not truth.keys() & found.keys():
        raise UsageError(
            f"{predictions} ({len(found)} label files) and {references} ({len(truth)}) have no "
            "case in common; a prediction needs its reference's file name (the ending may differ)."
        )
    pairs = [Pair(case=c, reference=path, prediction=found.get(c)) for c, path in truth.items()]
    return pairs, tuple(case for case in found if case not in truth)


def _write(
    result: Evaluation,
    out: Path,
    sources: list[Sources],
    structures: Structures,
    pictures: int | None,
    executor: CaseExecutor,
) -> Evaluation:
    """Write the three files into `out`, each by rename: the one that tells whose they are, table, pictures."""
    paths = _files(out)
    write_json(paths[1], result.summary)
    write_table(paths[0], result.table)
    drawn = draw_cases(by_case(result.table), sources, structures, pictures, executor)
    write_pieces(paths[2], summary_page(result.table, result.summary, drawn))
    return Evaluation(table=result.table, summary=result.summary, files=paths)


def _score_all(pairs: list[Pair], structures: Structures, executor: CaseExecutor) -> list[Row]:
    rows: dict[str, list[Row]] = {}
    problems: dict[str, RenalplanError] = {}
    for pair, result in map_cases(_score_pair, pairs, structures, executor=executor):
        if isinstance(result, RenalplanError):
            problems[pair.case] = of_case(pair.case, result)
        else:
            rows[pair.case] = result
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        listed = [f"\n  {problems[case]}" for case in sorted(problems)[:SHOWN]]
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DatasetError(f"{len(problems)} cases cannot be scored:{''.join(listed)}{more}")
    return [row for pair in pairs for row in rows[pair.case]]


def _score_pair(pair: Pair, structures: Structures) -> list[Row]:
    how = (structures.scheme, structures.tolerance, structures.declared)
    if pair.prediction is None:
        return missed_case(pair.case, pair.reference, *how)
    return evaluate_case(pair.case, pair.prediction, pair.reference, *how)


def _list(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
