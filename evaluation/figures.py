"""A case -> one picture: three slices with the contours of reference and prediction.

Decides colours, letters and layout; slices and grey window are `scene`'s. Slices are shown the
radiological way: the patient's right on the left of the picture, the head up, in a sagittal slice
the front to the left.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from renalplan.evaluation.scene import Scene, choose_slice, load_scene
from renalplan.files import atomic_file
from renalplan.geometry import Box, box_slices
from renalplan.labels import LabelScheme

# bright on grey, told apart by colour-blind readers (after Okabe and Ito, lightened)
COLOURS = ("#ff9f40", "#56b4e9", "#ecd444", "#e68ac0", "#3fd0a0", "#ff6f61", "#b9a2ff", "#c8d86a")
PAPER, INK = "#14171a", "#d5dade"
WIDTH_INCHES, HEIGHT_INCHES, DPI = 11.0, 3.7, 110  # at most; the panels' shapes decide
SLOT_INCHES = 1.25  # at least so much room for a panel, so that its title fits above it
GAP_INCHES, TITLE_INCHES, LINE_INCHES = 0.12, 0.3, 0.2
JPEG_QUALITY = 85  # contours stay sharp
LONGEST_NAME = 28  # letters of a structure's name in the legend


@dataclass(frozen=True)
class Plane:
    """A viewing direction: the canonical axis it cuts, and the letters left, right, up and down."""

    name: str
    axis: int
    letters: tuple[str, str, str, str]
    head_up: bool  # rows run to the head, so they are drawn from the bottom


PLANES = (
    Plane("axial", 0, ("R", "L", "A", "P"), False),
    Plane("coronal", 1, ("R", "L", "H", "F"), True),
    Plane("sagittal", 2, ("A", "P", "H", "F"), True),
)


def colour_of(names: tuple[str, ...]) -> dict[str, str]:
    """Structure name -> the colour it has in every picture and table."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def overlay_png(
    path: Path,
    image: Path | None,
    prediction: Path | None,
    reference: Path | None = None,
    *,
    scheme: LabelScheme,
    ct: bool | None = None,
) -> None:
    """Draw a case into a PNG file, written by rename.

    Args:
        path: The picture.
        image: The scan, None draws the structures on an empty ground.
        prediction: Label file, drawn dashed.
        reference: Label file, drawn solid; at least one of the two is needed.
        scheme: What the label values mean.
        ct: Show the CT window; None tells by the intensities.

    Raises:
        UsageError: neither a prediction nor a reference is given.
        DatasetError: a file is unreadable or lies on another grid than the others.
    """
    content = overlay_bytes(load_scene(image, prediction, reference, scheme, ct))
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def overlay_bytes(scene: Scene, *, small: bool = False) -> bytes:
    """Draw a scene, as the bytes of a PNG file, or of a JPEG file a third as large."""
    box = scene.box
    sizes = [(stop - start) * step for (start, stop), step in zip(box, scene.spacing, strict=True)]
    # width over height in mm of each panel; all panels get one height on paper
    deep, tall, wide = sizes
    ratios = (wide / tall, wide / deep, tall / deep)  # in the order of PLANES
    height = min(HEIGHT_INCHES, (WIDTH_INCHES - 4 * GAP_INCHES) / sum(ratios))
    slots = [max(height * ratio, SLOT_INCHES) for ratio in ratios]
    paper_width = sum(slots) + 4 * GAP_INCHES
    columns, lines = _legend_size(scene, paper_width)
    below = LINE_INCHES * (lines + 0.6)
    paper_height = below + height + TITLE_INCHES
    figure = Figure(figsize=(paper_width, paper_height), dpi=DPI, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    left = GAP_INCHES
    for plane, ratio, slot in zip(PLANES, ratios, slots, strict=True):
        width = height * ratio
        start = left + (slot - width) / 2
        place = (
            start / paper_width,
            below / paper_height,
            width / paper_width,
            height / paper_height,
        )
        _draw_plane(figure.add_axes(place), scene, plane, box)
        left += slot + GAP_INCHES
    _draw_legend(figure, scene, columns)
    buffer = io.BytesIO()
    if small:
        canvas.print_jpg(buffer, pil_kwargs={"quality": JPEG_QUALITY})
    else:
        canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw_plane(axes: Axes, scene: Scene, plane: Plane, box: Box) -> None:
    index = choose_slice(scene.guide, plane.axis)
    number = scene.start[plane.axis] + index + 1
    count = (scene.whole or scene.guide.shape[1:])[plane.axis]
    row_mm, column_mm = (s for a, s in enumerate(scene.spacing) if a != plane.axis)

    def cut(array: NDArray) -> NDArray:
        part = array.take(index, axis=plane.axis)
        rows, columns = (s for a, s in enumerate(box_slices(box)) if a != plane.axis)
        return part[rows, columns][:: -1 if plane.head_up else 1]

    masks = {"solid": scene.reference, "dashed": scene.prediction}
    ground = np.zeros(cut(scene.guide[0]).shape) if scene.image is None else cut(scene.image)
    rows, columns = ground.shape
    low, high = scene.window
    axes.imshow(
        np.clip((ground - low) / (high - low), 0, 1),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, columns * column_mm, rows * row_mm, 0),
        interpolation="bilinear",
    )
    for style, stack in masks.items():
        for mask, colour in zip(stack if stack is not None else (), _colours(scene), strict=False):
            _draw_contour(axes, cut(mask), (row_mm, column_mm), colour, style)
    axes.set_axis_off()
    axes.set_title(f"{plane.name} {number}/{count}", color=INK, fontsize=8.5, pad=5, loc="left")
    _draw_letters(axes, plane.letters)


def _draw_contour(
    axes: Axes, mask: NDArray[np.bool_], step_mm: tuple[float, float], colour: str, style: str
) -> None:
    """Outline a (rows, columns) mask; `style` is solid for the reference, dashed otherwise."""
    if not mask.any():
        return
    padded = np.pad(mask, 1).astype(float)  # so that outlines close at the picture's edge
    rows, columns = ((np.arange(n) - 0.5) * s for n, s in zip(padded.shape, step_mm, strict=True))
    lines = axes.contour(
        columns, rows, padded, levels=[0.5], colors=[colour], linestyles=[style], linewidths=[1.3]
    )
    if style == "dashed":  # white dashes over a dark edge stay visible on a solid line below
        lines.set_path_effects([withStroke(linewidth=2.2, foreground="#000000")])


def _draw_letters(axes: Axes, letters: tuple[str, str, str, str]) -> None:
    """Orientation letters at the middle of the left, right, upper and lower border."""
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    anchors = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (across, along) in zip(letters, places, anchors, strict=True):
        text = axes.text(x, y, letter, transform=axes.transAxes, color=INK, fontsize=9)
        text.set(horizontalalignment=across, verticalalignment=along, fontweight="bold")
        text.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])


def _colours(scene: Scene) -> tuple[str, ...]:
    return scene.colours or tuple(colour_of(scene.names).values())


def _legend_names(scene: Scene) -> list[str]:
    kinds = {"reference": scene.reference, "prediction": scene.prediction} if scene.kinds else {}
    names = [*scene.names, *(kind for kind, masks in kinds.items() if masks is not None)]
    return [n if len(n) <= LONGEST_NAME else n[: LONGEST_NAME - 1] + "…" for n in names]


def _legend_size(scene: Scene, width_inches: float) -> tuple[int, int]:
    """Columns and lines of a legend that fits the picture's width."""
    names = _legend_names(scene)
    entry_inches = 0.75 + 0.08 * max(map(len, names))  # line and gaps, then a letter's width
    columns = min(len(names), max(1, int(width_inches / entry_inches)))
    return columns, -(-len(names) // columns)


def _draw_legend(figure: Figure, scene: Scene, columns: int) -> None:
    handles = [Line2D([], [], color=colour) for colour in _colours(scene)]
    if scene.kinds and scene.reference is not None:
        handles.append(Line2D([], [], color=INK, linestyle="solid"))
    if scene.kinds and scene.prediction is not None:
        handles.append(Line2D([], [], color=INK, linestyle="dashed"))
    names = _legend_names(scene)
    legend = figure.legend(
        handles,
        ["M" * len(name) for name in names],
        loc="lower center",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
    )
    # set afterwards: names are shown as they are, never read as formulas or as private labels
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False, color=INK)
