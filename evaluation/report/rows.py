"""The surgical numbers -> tables of text, the same on the page and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from renalplan.evaluation.surgery.numbers import Interval, Number
from renalplan.evaluation.surgery.padua import Padua
from renalplan.evaluation.surgery.records import (
    Arteries,
    KidneyNumbers,
    Supply,
    SurgeryNumbers,
    TumorNumbers,
)
from renalplan.evaluation.surgery.renal import Renal
from renalplan.evaluation.surgery.wording import MOST_TUMORS, in_unit
from renalplan.files import Record

# of one kidney in a table; the JSON file has all
MOST_BRANCHES = 40
MOST_SMALLER = 40  # tumors

VOLUMES = {
    "kidney": "Kidney with lesions",
    "parenchyma": "Parenchyma",
    "cortex": "Cortex",
    "medulla": "Medulla",
    "tumor": "Tumors",
    "cyst": "Cysts",
    "function_share": "Share of both kidneys' function, estimated",
}
SHAPE = {
    "volume": "Volume",
    "diameter": "Largest diameter",
    "axial_diameter": "Largest axial diameter",
    "surface": "Surface",
    "sphericity": "Sphericity",
}
POSITION = {
    "exophytic": "Outside the kidney's outline",
    "depth": "Depth below the outline",
    "contact": "Contact surface with parenchyma",
    "contact_share": "Contact, share of the tumor's surface",
    "contact_hsieh": "Contact surface by Hsieh's formula",
    "c_index": "C-index",
    "above": "Above the upper polar line",
    "below": "Below the lower polar line",
    "to_sinus": "Distance to the sinus",
    "to_collecting": "Distance to the collecting system",
    "to_artery": "Distance to the artery",
    "to_vein": "Distance to the vein",
    "to_main_vessel": "Distance to a main vessel",
}
RENAL = {
    "score": "R.E.N.A.L. score",
    "radius": "R: diameter",
    "exophytic": "E: exophytic",
    "nearness": "N: nearness to sinus",
    "location": "L: polar lines",
    "hilar": "h: touches a main vessel",
}
PADUA = {
    "score": "PADUA score",
    "longitudinal": "Polar lines",
    "exophytic": "Exophytic",
    "rim": "Rim",
    "sinus": "Sinus",
    "collecting": "Collecting system",
    "size": "Size",
}
INTERVALS = {"voxel": "±1 voxel", "folds": "folds"}  # field of a number -> its column's head
NOTHING = "\N{EN DASH}"
FACES = {"a": "front", "p": "back", "x": "neither front nor back"}


@dataclass(frozen=True)
class Row:
    """One line of a table: what it is, and a cell for each of the table's heads.

    A line without a value has one cell that says why.
    """

    name: str
    cells: tuple[str, ...]
    known: bool = True


@dataclass(frozen=True)
class Table:
    """A titled table; `note` is a sentence below it."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A headline figure; `detail` is its interval, or what it lacks, or empty."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Section:
    """What belongs to one kidney or tumor: its headline figures, and its tables."""

    title: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def sections(numbers: SurgeryNumbers) -> Iterator[Section]:
    """Each kidney from the patient's right to the left, followed by its largest tumors."""
    for kidney in numbers.kidneys:
        name = f"{kidney.side.capitalize()} kidney"
        yield _kidney(kidney, name)
        for tumor in kidney.tumors[:MOST_TUMORS]:
            yield _tumor(tumor, f"{name}, tumor {tumor.number}")


def _kidney(kidney: KidneyNumbers, title: str) -> Section:
    tables = [_table("Volumes", _named(kidney.volumes, VOLUMES)), _arteries(kidney.arteries)]
    if smaller := kidney.tumors[MOST_TUMORS:]:
        tables.append(_smaller(smaller))
    figures = [_figure("Parenchyma", kidney.volumes.parenchyma)]
    if kidney.volumes.tumor.value:
        figures.append(_figure("Tumors", kidney.volumes.tumor))
    if kidney.volumes.function_share.value is not None:
        figures.append(_figure("Share of function", kidney.volumes.function_share))
    return Section(title, tuple(figures), tuple(tables))


def _smaller(tumors: Sequence[TumorNumbers]) -> Table:
    """Tumors without a section of their own, a line each."""
    rows = tuple(
        Row(
            f"Tumor {tumor.number}",
            (
                _short(tumor.shape.volume),
                _short(tumor.shape.diameter),
                _short(tumor.position.exophytic),
            ),
        )
        for tumor in tumors[:MOST_SMALLER]
    )
    shown = f"the largest {MOST_SMALLER} of {len(tumors)}" if len(tumors) > MOST_SMALLER else "all"
    note = f"Smaller than the {MOST_TUMORS} tumors below: {shown}. The JSON file has all numbers of each."
    return Table("Smaller tumors", ("volume", "diameter", "outside"), rows, note)


def _arteries(arteries: Arteries) -> Table:
    if arteries.missing:
        return _unknown("Arteries", "Branches", arteries.missing)
    rows = tuple(
        Row(
            f"Branch {branch.number}",
            (
                str(branch.parent or NOTHING),
                "terminal" if branch.terminal else "forks",
                _short(branch.radius),
                _short(branch.length),
                _short(branch.lost_share),
            ),
        )
        for branch in arteries.branches[:MOST_BRANCHES]
    )
    note = (
        f"{len(arteries.branches)} branches, {len(arteries.breaks)} breaks, "
        f"{len(arteries.loops_mm)} loops, {len(arteries.vein_contacts)} contacts with veins; "
        f"root: {arteries.root}. Lost: share of this kidney's parenchyma, if the branch is clamped."
    )
    if len(arteries.branches) > MOST_BRANCHES:
        note += f" The first {MOST_BRANCHES} branches are shown, the JSON file has all."
    return Table("Arteries", ("leaves", "", "radius", "length", "lost"), rows, note)


def _tumor(tumor: TumorNumbers, title: str) -> Section:
    renal, padua = tumor.renal, tumor.padua
    figures = [
        _figure("Diameter", tumor.shape.diameter),
        _figure("Volume", tumor.shape.volume),
        _score("R.E.N.A.L.", renal, RENAL),
        _score("PADUA", padua, PADUA),
        _figure("C-index", tumor.position.c_index),
        _figure("Contact", tumor.position.contact),
        _figure("Outside the kidney", tumor.position.exophytic),
    ]
    tables = [
        _table("Size and shape", _named(tumor.shape, SHAPE)),
        _table("Place", _named(tumor.position, POSITION)),
        _table("R.E.N.A.L.", _named(renal, RENAL), f"A (face): {_face(renal.face)}."),
        _table("PADUA", _named(padua, PADUA), f"Face: {_face(padua.face)}."),
        _table("Resection", _resections(tumor)),
        _supply(tumor.supply),
    ]
    if tumor.folds_found is not None:
        found = Row("Single folds' segmentations that have it", (str(tumor.folds_found),))
        tables.append(Table("Folds", ("",), (found,)))
    return Section(title, tuple(figures), tuple(tables))


def _face(face: str) -> str:
    return FACES.get(face, NOTHING)


def _resections(tumor: TumorNumbers) -> Iterator[tuple[str, Number]]:
    for one in tumor.resections:
        yield f"Parenchyma left, margin {one.margin_mm:g} mm", one.remaining_share
        yield "… less the rim that sutures take", one.remaining_after_suture


def _supply(supply: Supply) -> Table:
    if supply.missing:
        return _unknown("Clamping", "Feeding arteries", supply.missing)
    lines = [
        (f"Branches {', '.join(map(str, clamping.branches))}", clamping.lost_share)
        for clamping in supply.clampings
    ]
    note = (
        "Parenchyma lost if these branches are clamped: each set covers the tumor and "
        f"{supply.margin_mm:g} mm around it."
    )
    if supply.parent_unknown:
        note += " Part of it hangs on a piece of artery without a root."
    return _table("Clamping", lines, note)


def _named(record: Record, names: dict[str, str]) -> Iterator[tuple[str, Number]]:
    return ((name, getattr(record, field)) for field, name in names.items())


def _unknown(title: str, name: str, reason: str) -> Table:
    return Table(title, ("",), (Row(name, (reason,), known=False),))


def _table(title: str, lines: Iterable[tuple[str, Number]], note: str = "") -> Table:
    """Numbers with their intervals, for as many kinds of interval as there are."""
    lines = list(lines)
    kinds = [
        kind for kind in INTERVALS if any(getattr(number, kind) is not None for _, number in lines)
    ]
    rows = []
    for name, number in lines:
        if number.value is None:
            rows.append(Row(name, (number.missing,), known=False))
            continue
        intervals = (_interval(getattr(number, kind), number.unit) for kind in kinds)
        rows.append(Row(name, (in_unit(number.value, number.unit), *intervals)))
    return Table(title, ("", *(INTERVALS[kind] for kind in kinds)), tuple(rows), note)


def _interval(interval: Interval | None, unit: str) -> str:
    if interval is None:
        return ""
    low, high = (in_unit(value, unit) for value in interval)
    if low == high:
        return low
    # the unit once: 6.4 to 9.4 ml
    return f"{low.partition(' ')[0]} to {high}"


def _short(number: Number) -> str:
    return NOTHING if number.value is None else in_unit(number.value, number.unit)


def _figure(name: str, number: Number) -> Figure:
    interval = number.voxel if number.voxel is not None else number.folds
    return Figure(name, _short(number), _interval(interval, number.unit))


def _score(name: str, score: Renal | Padua, parts: dict[str, str]) -> Figure:
    """A sum and its band, or which of its parts have no value."""
    if score.score.value is not None:
        value = f"{_short(score.score)} ({score.complexity})"
        return Figure(name, value, _figure(name, score.score).detail)
    lacking = [
        words.partition(":")[0]
        for part, words in parts.items()
        if part not in ("score", "hilar") and getattr(score, part).value is None
    ]
    shown = ", ".join(lacking) if len(lacking) <= 2 else f"{len(lacking)} of its parts"
    return Figure(name, NOTHING, f"lacks {shown}")
