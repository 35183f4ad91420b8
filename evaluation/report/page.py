"""The page: one HTML file with the viewer, the pictures and the numbers in it.

Nothing is loaded from elsewhere and no text from outside can become code: names are escaped, and the page's
own policy lets a browser run the two scripts whose fingerprints it states, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

from renalplan.evaluation.page import STYLE
from renalplan.evaluation.report.look import Look
from renalplan.evaluation.report.records import PatientReport, StructureRecord
from renalplan.evaluation.report.rows import Row, Section, Table, sections
from renalplan.evaluation.report.slices import Slices
from renalplan.evaluation.report.small_scan import SmallScan
from renalplan.evaluation.surgery.frame import Point

DIRECTIONS = ("front", "back", "right", "left", "head", "feet")
SIDES = ("left", "right", "top", "bottom")  # of the picture, where letters name the patient's
CAPTION = "The patient's right is on the left of the picture. R right, L left, A front, P back, H head, F feet."
HOW = (
    "Every number is measured on the segmentation as it is stored; formulas, sources and limits are in "
    "renalplan's docs/surgery.md. “±1 voxel” is how far the number moves if tumors and kidney are one voxel "
    "larger or smaller.",
    "Meshes are smooth surfaces that hold the volume of the structure's voxels, in the patient's millimetres "
    "with DICOM's axes (LPS: to the left, to the back, to the head).",
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the page shows beside the report's record.

    Attributes:
        report: The record.
        looks: Structure name -> its look.
        meshes: Structure name -> its MZ3 file; a structure without a mesh is missing.
        scan: The viewer's scan.
        window: Intensities shown black and white.
        focus: Where the viewer's slices begin, LPS mm.
        still: PNG of the 3-D view, for browsers that cannot show it.
        slices: Pictures, in order.
    """

    report: PatientReport
    looks: dict[str, Look]
    meshes: dict[str, bytes]
    scan: SmallScan
    window: tuple[float, float]
    focus: Point
    still: bytes
    slices: list[Slices]


def report_page(content: Content) -> str:
    """A complete HTML document."""
    report = content.report
    opening = f"{report.segmentation} on {report.image}: {report.voxels}."
    measured = [] if report.numbers is None else list(sections(report.numbers))
    parts = [
        f"<h1>{escape(report.case)}</h1>",
        f'<p class="soft">{escape(opening)}</p>',
        f'<div class="card warn">{escape(report.notice)}</div>',
        *_remarks(report),
        f'<div class="summary">{"".join(_figures(section) for section in measured)}</div>',
        f'<h2>Structures</h2><div class="card">{_viewer(content)}</div>',
        f'<h2>Slices</h2><p class="soft">{CAPTION}</p>',
        *(_figure(one) for one in content.slices),
    ]
    if report.numbers is None:
        parts.append(
            f'<h2>Numbers</h2><div class="card warn">{escape(report.without_numbers)}</div>'
        )
    parts += [_section(section) for section in measured]
    parts.append(f'<h2>Meshes</h2><div class="card">{_files(report)}</div>')
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in (*HOW, _shown(content)))
    parts.append(f'<h2>How this is made</h2><ul class="soft">{rules}</ul>')
    scripts = [_asset("niivue.umd.js"), _asset("viewer.js")]
    parts.append(f'<script type="application/json" id="scene">{_scene(content)}</script>')
    parts += [f"<script>{script}</script>" for script in scripts]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.case)}</title>\n"
        f"<style>{STYLE}{_asset('report.css')}</style>\n"
        f"<!--\nThe 3-D view is NiiVue's.\n{_asset('LICENSES.txt')}-->\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _remarks(report: PatientReport) -> list[str]:
    remarks = () if report.numbers is None else report.numbers.remarks
    return [f'<div class="card warn"><b>{escape(remark)}</b></div>' for remark in remarks]


@cache
def _asset(name: str) -> str:
    return (files("renalplan.evaluation.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    hashes = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def _scene(content: Content) -> str:
    """What viewer.js reads: JSON in which no tag can end or begin."""
    structures = []
    for structure in content.report.structures:
        look, mesh = content.looks[structure.name], content.meshes.get(structure.name)
        structures.append(
            {
                "name": structure.name,
                "colour": look.colour,
                "opacity": look.opacity,
                "mesh": None if mesh is None else _base64(mesh),
            }
        )
    x, y, z = content.focus
    scene = {
        "structures": structures,
        "image": _base64(content.scan.image),
        "labels": _base64(content.scan.labels),
        "window": content.window,
        "focus": (-x, -y, z),  # RAS, as the viewer counts
    }
    return json.dumps(scene).replace("<", "\\u003c")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _shown(content: Content) -> str:
    return (
        f"The viewer's scan is cut to the kidneys and resampled to {content.scan.spacing_mm:.2f} mm, its meshes "
        "are thinned out: the page stays small. Nothing is measured on them."
    )


def _viewer(content: Content) -> str:
    toggles = "".join(
        _toggle(index, structure) for index, structure in enumerate(content.report.structures)
    )
    directions = "".join(
        f'<button type="button" data-look="{name}">{name}</button>' for name in DIRECTIONS
    )
    letters = "".join(f'<span class="letter {side}"></span>' for side in SIDES)
    return (
        '<div id="viewer" data-state="loading">'
        f'<div class="stage"><img alt="The structures from the front" src="{_png(content.still)}">'
        f'<canvas id="body"></canvas>{letters}</div>'
        f'<div class="side"><h3>Show</h3><div class="bar">{toggles}</div>'
        f'<h3>Look from</h3><div class="bar">{directions}</div>'
        '<div class="bar"><button type="button" id="turn" aria-pressed="false">Turn</button>'
        '<button type="button" id="scan" aria-pressed="false">Scan behind</button></div></div>'
        '<div class="stage flat"><canvas id="slices"></canvas></div></div>'
        '<p class="soft" id="place">Drag to turn, scroll to zoom; click a slice to move the others. '
        "On the slices S is towards the head, I towards the feet.</p>"
        '<p class="soft" id="failure"></p>'
    )


def _toggle(index: int, structure: StructureRecord) -> str:
    if not structure.triangles:
        found = "none" if not structure.volume_ml else "specks"
        return (
            f"<button disabled>{_dot(structure.colour)}{escape(structure.name)}"
            f'<span class="ml">{found}</span></button>'
        )
    return (
        f'<button type="button" data-structure="{index}" aria-pressed="true">'
        f'{_dot(structure.colour)}{escape(structure.name)}<span class="ml">{structure.volume_ml:.1f} ml</span></button>'
    )


def _dot(colour: str) -> str:
    return f'<span class="dot" style="background:{escape(colour)}"></span>'


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{_base64(data)}"


def _figure(slices: Slices) -> str:
    title = escape(slices.title)
    return (
        f'<figure class="card"><div class="head"><h3>{title}</h3></div>'
        f'<img alt="{title}" src="{_png(slices.png)}"></figure>'
    )


def _figures(section: Section) -> str:
    figures = "".join(
        f'<div class="figure"><span>{escape(one.name)}</span><b>{escape(one.value)}</b>'
        f"<small>{escape(one.detail)}</small></div>"
        for one in section.figures
    )
    return f'<div><h3>{escape(section.title)}</h3><div class="figures">{figures}</div></div>'


def _section(section: Section) -> str:
    tables = "".join(_table(table) for table in section.tables)
    return f'<h2>{escape(section.title)}</h2><div class="tables">{tables}</div>'


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    rows = "".join(_line(row, len(table.heads)) for row in table.rows)
    note = f'<p class="soft">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="card"><table><thead><tr><th>{escape(table.title)}</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}</div>"
    )


def _line(row: Row, columns: int) -> str:
    if row.known:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
    else:
        cells = f'<td class="text unknown" colspan="{columns}">{escape(row.cells[0])}</td>'
    return f"<tr><td>{escape(row.name)}</td>{cells}</tr>"


def _files(report: PatientReport) -> str:
    rows = "".join(
        f"<tr><td>{_dot(one.colour)}{escape(one.name)}</td><td>{one.volume_ml:.2f} ml</td>"
        f"<td>{one.triangles}</td><td>{_link(one.stl)} {_link(one.glb)}</td></tr>"
        for one in report.structures
    )
    every = (
        f'<p class="soft">All in one file: {_link(report.all_glb)}</p>' if report.all_glb else ""
    )
    return (
        "<table><thead><tr><th>Structure</th><th>Volume</th><th>Triangles</th><th>Files, LPS mm</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{every}"
    )


def _link(name: str | None) -> str:
    if name is None:
        return ""
    from urllib.parse import quote

    ending = name.rpartition(".")[2].upper()
    return f'<a href="{escape(quote(name))}">{escape(ending)}</a>'
