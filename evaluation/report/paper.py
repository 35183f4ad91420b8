"""The report on paper: A4 pages for a PDF, and the first of them as a PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from renalplan.evaluation.report.records import PatientReport, StructureRecord
from renalplan.evaluation.report.rows import Row, Section, Table, sections
from renalplan.evaluation.report.slices import Slices

WIDTH, HEIGHT, MARGIN = 8.27, 11.69, 0.6  # inches
INK, SOFT, LINE, ACCENT = "#1f2529", "#5c666d", "#d5dade", "#2c6e8f"
PNG_DPI = 150
LINE_HEIGHT = 0.165
NAME_WIDTH = 3.0
DETAIL_LETTERS = 20  # below a headline figure
NAME_LETTERS, REASON_LETTERS, FULL_LETTERS = 48, 66, 118


@dataclass
class Paper:
    """Pages that fill from the top.

    Attributes:
        figures: The pages so far.
        below: Inches from the page's top to what is free.
    """

    figures: list[Figure] = field(default_factory=list)
    below: float = HEIGHT

    def need(self, inches: float) -> None:
        """Go on to a new page if so much is not left."""
        if self.below + inches > HEIGHT - MARGIN:
            self.figures.append(Figure(figsize=(WIDTH, HEIGHT), facecolor="white"))
            self.below = MARGIN

    def text(self, words: str, size: float = 8, *, at: float = 0.0, **style: object) -> Text:
        """Write at `at` inches from the left margin, without moving on."""
        figure = self.figures[-1]
        x, y = (MARGIN + at) / WIDTH, 1 - self.below / HEIGHT
        written = figure.text(x, y, words, fontsize=size, va="top", color=style.pop("color", INK))
        written.set(parse_math=False, **style)
        return written

    def rule(self) -> None:
        """A thin line across the page."""
        x, y = MARGIN / WIDTH, 1 - self.below / HEIGHT
        self.figures[-1].add_artist(
            Rectangle((x, y), 1 - 2 * x, 0.0004, facecolor=LINE, edgecolor="none")
        )

    def picture(self, image: NDArray, *, at: float = 0.0, width: float) -> float:
        """Put a picture (rows, columns, colours) at the height reached; how high it is, in inches."""
        height = width * image.shape[0] / image.shape[1]
        place = (
            (MARGIN + at) / WIDTH,
            1 - (self.below + height) / HEIGHT,
            width / WIDTH,
            height / HEIGHT,
        )
        axes = self.figures[-1].add_axes(place)
        axes.imshow(image, interpolation="antialiased")
        axes.set_axis_off()
        return height


def report_paper(
    report: PatientReport, stills: Sequence[NDArray], slices: Sequence[Slices]
) -> tuple[bytes, bytes]:
    """The report as a PDF file and its first page as a PNG file.

    Args:
        report: The record.
        stills: Pictures (rows, columns, 3) of the structures, side by side on the first page.
        slices: The overview first.
    """
    paper = Paper()
    _front(paper, report, stills, slices[0])
    parts = [] if report.numbers is None else list(sections(report.numbers))
    remarks = () if report.numbers is None else report.numbers.remarks
    _summary(paper, parts, (*remarks, *filter(None, [report.without_numbers])))
    for one in slices[1:]:
        _slices(paper, one)
    for part in parts:
        _section(paper, part)
    for number, figure in enumerate(paper.figures, 1):
        text = f"{report.case} · {number}/{len(paper.figures)} · {report.notice}"
        foot = figure.text(MARGIN / WIDTH, 0.35 / HEIGHT, text, fontsize=6.5, color=SOFT)
        foot.set_parse_math(False)
    return _pdf(paper.figures, report.case), _png(paper.figures[0])


def _front(
    paper: Paper, report: PatientReport, stills: Sequence[NDArray], overview: Slices
) -> None:
    paper.need(HEIGHT)
    paper.text(report.case, 17, fontweight="bold")
    paper.below += 0.36
    paper.text(f"{report.image}: {report.voxels}", 8.5, color=SOFT)
    paper.below += 0.28
    gap = 0.1
    width = (WIDTH - 2 * MARGIN - gap * (len(stills) - 1)) / len(stills)
    heights = [
        paper.picture(still, at=place * (width + gap), width=width)
        for place, still in enumerate(stills)
    ]
    paper.below += max(heights) + 0.08
    _legend(paper, report.structures)
    _slices(paper, overview)


def _legend(paper: Paper, structures: Sequence[StructureRecord]) -> None:
    """Every structure's colour, name and volume, three in a row."""
    column = (WIDTH - 2 * MARGIN) / 3
    for index, structure in enumerate(structures):
        if index % 3 == 0:
            paper.need(LINE_HEIGHT)
        at = column * (index % 3)
        centre = ((MARGIN + at + 0.05) / WIDTH, 1 - (paper.below + 0.06) / HEIGHT)
        # the page is higher than wide: a circle in shares of it would be an ellipse
        dot = Circle((centre[0] * WIDTH, centre[1] * HEIGHT), 0.045, color=structure.colour)
        dot.set_transform(paper.figures[-1].dpi_scale_trans)
        paper.figures[-1].add_artist(dot)
        name = textwrap.shorten(structure.name, 30, placeholder="…") or structure.name[:30]
        amount = f"{structure.volume_ml:.1f} ml" if structure.volume_ml else "none"
        paper.text(f"{name}: {amount}", 8, at=at + 0.15)
        if index % 3 == 2 or index == len(structures) - 1:
            paper.below += LINE_HEIGHT
    paper.below += 0.12


def _slices(paper: Paper, slices: Slices) -> None:
    image = imread(io.BytesIO(slices.png))
    width = WIDTH - 2 * MARGIN
    paper.need(width * image.shape[0] / image.shape[1] + 0.35)
    paper.text(slices.title, 9.5, fontweight="bold")
    paper.below += 0.2
    paper.below += paper.picture(image, width=width) + 0.15


def _summary(paper: Paper, parts: Sequence[Section], remarks: Sequence[str]) -> None:
    """What must be known first, and the headline figures of each kidney and tumor."""
    for remark in remarks:
        _paragraph(paper, remark)
    for part in parts:
        paper.need(0.76)
        paper.text(part.title, 9.5, fontweight="bold")
        paper.below += 0.21
        column = (WIDTH - 2 * MARGIN) / max(len(part.figures), 6)
        for place, one in enumerate(part.figures):
            at, top = place * column, paper.below
            paper.text(one.name, 7, at=at, color=SOFT)
            paper.below += 0.13
            paper.text(one.value, 9.5, at=at, color=ACCENT, fontweight="bold")
            paper.below += 0.18
            detail = textwrap.wrap(one.detail, DETAIL_LETTERS)
            paper.text("\n".join(detail), 6, at=at, color=SOFT)
            paper.below = top
        paper.below += 0.58


def _section(paper: Paper, section: Section) -> None:
    paper.need(1.2)
    paper.below += 0.1
    paper.text(section.title, 12, fontweight="bold", color=ACCENT)
    paper.below += 0.28
    for table in section.tables:
        _table(paper, table)


def _table(paper: Paper, table: Table) -> None:
    paper.need(4 * LINE_HEIGHT)
    paper.text(table.title, 8, fontweight="bold")
    column = (WIDTH - 2 * MARGIN - NAME_WIDTH) / max(len(table.heads), 3)
    for place, head in enumerate(table.heads):
        paper.text(head, 7.5, at=NAME_WIDTH + place * column, color=SOFT)
    paper.below += LINE_HEIGHT
    for row in table.rows:
        _row(paper, row, column)
    if table.note:
        _paragraph(paper, table.note)
    paper.below += 0.14


def _row(paper: Paper, row: Row, column: float) -> None:
    name = textwrap.wrap(row.name, NAME_LETTERS) or [""]
    reason = [] if row.known else textwrap.wrap(row.cells[0], REASON_LETTERS)
    lines = max(len(name), len(reason))
    paper.need(lines * LINE_HEIGHT)
    paper.rule()
    paper.below += 0.03
    paper.text("\n".join(name), 7.5)
    if row.known:
        for place, cell in enumerate(row.cells):
            paper.text(cell, 7.5, at=NAME_WIDTH + place * column, color=SOFT if place else INK)
    else:
        paper.text("\n".join(reason), 7.5, at=NAME_WIDTH, color=SOFT, fontstyle="italic")
    paper.below += lines * LINE_HEIGHT - 0.03


def _paragraph(paper: Paper, words: str) -> None:
    lines = textwrap.wrap(words, FULL_LETTERS)
    paper.need(len(lines) * 0.15)
    paper.text("\n".join(lines), 7.5, color=SOFT)
    paper.below += len(lines) * 0.15 + 0.03


def _pdf(figures: Sequence[Figure], title: str) -> bytes:
    buffer = io.BytesIO()
    # the same report has the same bytes
    with PdfPages(buffer, metadata={"Title": title, "CreationDate": None, "Producer": None}) as pdf:
        for figure in figures:
            FigureCanvasPdf(figure)
            pdf.savefig(figure)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.set_dpi(PNG_DPI)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
