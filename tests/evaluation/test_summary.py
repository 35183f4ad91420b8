from __future__ import annotations

import math
from html.parser import HTMLParser

from renalplan.evaluation.aggregate import summarise, to_table
from renalplan.evaluation.columns import (
    CENTERLINE,
    LESIONS,
    SCORES,
    SURFACE_DISTANCES,
    Row,
    absent_columns,
)
from renalplan.evaluation.pictures import Picture
from renalplan.evaluation.strip import strip_plot
from renalplan.evaluation.summary import summary_page

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "img"}


def row(case: str, structure: str, dice: float, note: str = "") -> Row:
    scores = dict.fromkeys(SCORES, dice)
    return {
        "case": case,
        "structure": structure,
        **scores,
        **dict.fromkeys(SURFACE_DISTANCES, 10 * (1 - dice)),
        CENTERLINE: 5 * (1 - dice),
        **dict(zip(LESIONS, (1, 2, 3), strict=True)),
        "reference_ml": 2.0,
        "predicted_ml": 3.0,
        "volume_error_ml": 1.0,
        "tolerance_mm": 1.0,
        "note": note,
        **dict.fromkeys(absent_columns(structure), math.nan),
    }


class Balance(HTMLParser):
    """Collects tags and fails on one that is closed without having been opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(rows: list[Row], pictures: list[Picture] | None = None, **more: tuple[str, ...]) -> str:
    table = to_table(rows)
    return "".join(summary_page(table, summarise(table, **more), pictures or []))


def test_every_name_is_escaped() -> None:
    rows = [row(EVIL, EVIL + "s", 0.5, EVIL), row("b", EVIL + "s", 1.0)]
    pictures = [Picture(case=EVIL, problem=EVIL), Picture(case="b", image=b"png")]
    text = page(rows, pictures, missing=(EVIL,), extra=(EVIL,))
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)" in text


def test_page_is_well_formed_and_loads_nothing() -> None:
    text = page([row("a", "kidney", 0.5)], [Picture(case="a", image=b"png")])
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "iframe"}
    assert "http" not in text
    assert "url(" not in text
    assert 'src="data:image/jpeg;base64,cG5n"' in text  # cG5n is "png"


def test_worst_case_comes_first() -> None:
    text = page([row("good", "kidney", 0.9), row("bad", "kidney", 0.1)])
    cases = text[text.index("All cases") :]
    assert cases.index(">bad<") < cases.index(">good<")


def test_distances_are_shown_in_mm_and_centerlines_of_tubes_only() -> None:
    text = page([row("a", "kidney", 0.5), row("b", "kidney", 0.1)])
    assert text.count("<td>7.00 ± 2.83</td>") == 4  # 5 and 9 mm in each of the four distances
    assert "<td>9.00</td>" in text  # the largest
    assert "Centerline distance" not in text
    assert ">nan" not in text
    text = page([row("a", "kidney", 0.5), row("a", "Renal vein", 0.5)])
    assert "Centerline distance" in text
    assert "<td>2.50</td>" in text
    assert ">nan" not in text


def test_missing_and_extra_cases_are_at_the_top() -> None:
    text = page([row("a", "kidney", 0.0, "missing")], missing=("a",), extra=("zzz",))
    assert text.index("Without prediction") < text.index("<h2>")
    assert "zzz" in text
    assert "Without prediction" not in page([row("a", "kidney", 0.5)])


def test_strip_has_a_dot_for_every_case() -> None:
    rows = [row(f"c{i}", "a structure with quite a long name", i / 4) for i in range(5)]
    svg = strip_plot(to_table(rows), {"a structure with quite a long name": "#123456"})
    assert svg.count("<circle") == 5
    assert svg.count('class="box"') == 1
    assert "c3: 0.750" in svg
    assert "a structure with quite a …" in svg
