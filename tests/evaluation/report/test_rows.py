"""What a reader of the report finds in the tables of a kidney's arteries and of a tumor's supply."""

from __future__ import annotations

from typing import Any

import pytest

from renalplan.evaluation.report.rows import (
    MOST_BRANCHES,
    MOST_SMALLER,
    Section,
    Table,
    sections,
)
from renalplan.evaluation.surgery.breaks import Break, Contact
from renalplan.evaluation.surgery.numbers import ML, MM, SHARE, Number, measured, needs
from renalplan.evaluation.surgery.padua import Padua
from renalplan.evaluation.surgery.position import Position
from renalplan.evaluation.surgery.records import (
    Arteries,
    Branch,
    Clamping,
    KidneyNumbers,
    Supply,
    SurgeryNumbers,
    TumorNumbers,
    Volumes,
)
from renalplan.evaluation.surgery.renal import Renal
from renalplan.evaluation.surgery.resection import Resection
from renalplan.evaluation.surgery.shape import Shape
from renalplan.evaluation.surgery.wording import MOST_TUMORS, sentences
from renalplan.files import Record

HERE = (0.0, 0.0, 0.0)


def filled(kind: type[Record], **values: Any) -> Any:
    """A record of which all other numbers are 7 mm."""
    others = {
        name: measured(7, MM)
        for name, field in kind.model_fields.items()
        if field.annotation is Number and name not in values
    }
    return kind(**others | values)


def branch(number: int, parent: int = 0, *, terminal: bool = True) -> Branch:
    share = measured(number / 100, SHARE)
    return filled(
        Branch, number=number, parent=parent, generation=0, terminal=terminal, rooted=True,
        start_mm=HERE, end_mm=HERE, lost_share=share,
    )  # fmt: skip


def tumor(supply: Supply, **values: Any) -> TumorNumbers:
    resection = filled(
        Resection, margin_mm=5, remaining_share=Number(value=0.8, unit=SHARE, folds=(0.7, 0.9)),
        remaining_after_suture=measured(0.75, SHARE),
    )  # fmt: skip
    return TumorNumbers(
        number=1,
        shape=filled(Shape),
        position=filled(Position, centre_mm=HERE, to_vein=needs("a label for veins", MM)),
        renal=filled(Renal, face="p", complexity="low"),
        padua=filled(Padua, face="?", complexity=""),
        resections=(resection,),
        supply=supply,
        **values,
    )


def numbers(arteries: Arteries, *tumors: TumorNumbers) -> SurgeryNumbers:
    kidney = KidneyNumbers(
        side="left", side_from="the spine", volumes=filled(Volumes), polar_lines_mm=None,
        tumors=tumors, arteries=arteries,
    )  # fmt: skip
    return SurgeryNumbers(case="a", spacing_mm=(1, 1, 1), labels={}, kidneys=(kidney,))


def shown(arteries: Arteries, *tumors: TumorNumbers) -> list[Section]:
    return list(sections(numbers(arteries, *tumors)))


def table(section: Section, title: str) -> Table:
    (found,) = [table for table in section.tables if table.title == title]
    return found


def cells(found: Table) -> dict[str, tuple[str, ...]]:
    return {row.name: row.cells for row in found.rows}


def test_branches_say_what_they_leave_and_what_clamping_them_costs() -> None:
    one_break = Break(
        at_mm=HERE, nearest_mm=None, gap=measured(2, MM), volume=measured(1, ML), speck=False
    )
    arteries = Arteries(
        root="the aorta",
        branches=(branch(1, terminal=False), branch(2, parent=1)),
        breaks=(one_break,),
        loops_mm=(HERE, HERE),
        vein_contacts=(Contact(at_mm=HERE, area=measured(1, "mm2")),) * 3,
    )
    found = table(shown(arteries)[0], "Arteries")
    assert found.heads == ("leaves", "", "radius", "length", "lost")
    assert cells(found) == {
        "Branch 1": ("\N{EN DASH}", "forks", "7.0 mm", "7.0 mm", "1.0 %"),
        "Branch 2": ("1", "terminal", "7.0 mm", "7.0 mm", "2.0 %"),
    }
    assert found.note.startswith(
        "2 branches, 1 breaks, 2 loops, 3 contacts with veins; root: the aorta."
    )


def test_of_a_dense_tree_the_rest_is_in_the_file() -> None:
    arteries = Arteries(root="r", branches=tuple(branch(n) for n in range(1, MOST_BRANCHES + 6)))
    found = table(shown(arteries)[0], "Arteries")
    assert len(found.rows) == MOST_BRANCHES
    assert found.note.startswith(f"{MOST_BRANCHES + 5} branches, ")
    assert found.note.endswith(
        f"The first {MOST_BRANCHES} branches are shown, the JSON file has all."
    )


@pytest.mark.parametrize("smaller", [0, 1, MOST_SMALLER + 3])
def test_of_hundreds_of_specks_the_largest_have_a_section(smaller: int) -> None:
    one = tumor(Supply(margin_mm=5))
    tumors = [one.model_copy(update={"number": n + 1}) for n in range(MOST_TUMORS + smaller)]
    kidney, *others = shown(Arteries(), *tumors)
    assert len(others) == MOST_TUMORS
    printed = list(sentences(numbers(Arteries(), *tumors)))
    assert sum("R.E.N.A.L." in line for line in printed) == MOST_TUMORS
    last = f"  smaller tumors, told in the file alone: {smaller}"
    assert (printed[-1] == last) == bool(smaller)
    if not smaller:
        assert "Smaller tumors" not in [one.title for one in kidney.tables]
        return
    found = table(kidney, "Smaller tumors")
    assert found.heads == ("volume", "diameter", "outside")
    assert found.rows[0].name == f"Tumor {MOST_TUMORS + 1}"
    assert len(found.rows) == min(smaller, MOST_SMALLER)
    assert (f"of {smaller}" in found.note) == (smaller > MOST_SMALLER)


@pytest.mark.parametrize("unknown", [True, False])
def test_each_set_of_clamps_has_its_loss(unknown: bool) -> None:
    clampings = tuple(
        Clamping(branches=numbers, lost=measured(9, ML), lost_share=measured(share, SHARE))
        for numbers, share in (((1,), 0.5), ((2, 3), 0.25))
    )
    supply = Supply(margin_mm=5, nearest=2, clampings=clampings, parent_unknown=unknown)
    _, section = shown(Arteries(), tumor(supply, folds_found=3))
    assert section.title == "Left kidney, tumor 1"
    found = table(section, "Clamping")
    assert cells(found) == {"Branches 1": ("50.0 %",), "Branches 2, 3": ("25.0 %",)}
    assert "the tumor and 5 mm around it" in found.note
    assert ("a piece of artery without a root" in found.note) == unknown
    assert cells(table(section, "Folds")) == {"Single folds' segmentations that have it": ("3",)}


def test_what_cannot_be_computed_says_what_it_needs() -> None:
    reason = "not computable: needs a label for arteries"
    kidney, section = shown(Arteries(missing=reason), tumor(Supply(margin_mm=5, missing=reason)))
    for found, name in (
        (table(kidney, "Arteries"), "Branches"),
        (table(section, "Clamping"), "Feeding arteries"),
    ):
        (row,) = found.rows
        assert (row.name, row.cells, row.known) == (name, (reason,), False)
    veins = cells(table(section, "Place"))["Distance to the vein"]
    assert veins == ("not computable: needs a label for veins",)
    assert "Folds" not in [found.title for found in section.tables]


def test_intervals_have_a_column_only_where_there_are_some() -> None:
    _, section = shown(Arteries(), tumor(Supply(margin_mm=5)))
    found = table(section, "Resection")
    assert found.heads == ("", "folds")
    assert cells(found) == {
        "Parenchyma left, margin 5 mm": ("80.0 %", "70.0 to 90.0 %"),
        "… less the rim that sutures take": ("75.0 %", ""),
    }
    assert table(section, "Size and shape").heads == ("",)
    assert table(section, "R.E.N.A.L.").note == "A (face): back."
    assert table(section, "PADUA").note == "Face: \N{EN DASH}."
