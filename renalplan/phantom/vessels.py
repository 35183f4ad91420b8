"""Grows the renal arteries and veins: trunk, five segments, interlobar branches in the columns.

Radii follow r0^g = sum ri^g with g = 2.1, so that a 6 mm trunk ends in interlobar arteries of about
1.7 mm. Interlobar arteries run between two pyramids and end at the border of cortex and medulla.
Accessory arteries go from the aorta straight to a pole. Veins follow the arteries in front of them.

Sources:
    [FoliaMorph] Folia Morphologica, PMID 31106842: trunk sections L 28.5, R 25.4 mm2; an accessory
    artery in 33.7 % of patients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.abdomen import Abdomen
from renalplan.phantom.kidneys import Kidney
from renalplan.phantom.shapes import TubeBuilder, Tubes

RADIUS_EXPONENT = 2.1
ACCESSORY_SHARE = 0.337  # of patients [FoliaMorph]
TRUNK_MM2 = {"left": 28.5, "right": 25.4}  # [FoliaMorph]
SEGMENTS = (  # place of the tip inside the sinus (u / semi, v / semi, w / semi), share of the flow
    ("apical", (0.62, 0.25, 0.0), 0.17),
    ("upper", (0.28, 0.62, 0.1), 0.2),
    ("middle", (-0.12, 0.62, 0.1), 0.2),
    ("lower", (-0.6, 0.3, 0.0), 0.2),
    ("posterior", (0.05, -0.68, 0.1), 0.23),
)
TRUNK, SEGMENTAL, INTERLOBAR = 0, 1, 2  # levels


def draw_arteries(
    rng: np.random.Generator, kidney: Kidney, abdomen: Abdomen, accessory: bool
) -> Tubes:
    """The arterial tree of one kidney; its root lies inside the aorta."""
    builder = TubeBuilder()
    area = float(np.clip(rng.normal(TRUNK_MM2[kidney.side], 5), 16, 40))
    radius = (area / np.pi) ** 0.5
    hilum = kidney.patient(np.array([0.0, 2.0, -1.1 * kidney.semi[2]]))
    root = trunk_point(abdomen.aorta, float(hilum[0] + rng.uniform(6, 20)))
    builder.add_curve(
        [root, *_trunk_path(root, hilum, kidney, abdomen), hilum], (radius, radius * 0.93), TRUNK
    )
    _grow_segments(rng, builder, kidney, hilum, radius * 0.93)
    if accessory:
        _add_accessory(rng, builder, kidney, abdomen)
    return builder.build()


def trunk_point(trunk: Tubes, z: float) -> NDArray[np.float64]:
    """The point on a great vessel's axis at a height."""
    order = np.argsort(trunk.start[:, 0])
    heights = trunk.start[order, 0]
    y, x = (np.interp(z, heights, trunk.start[order, axis]) for axis in (1, 2))
    return np.array([z, y, x])


def _trunk_path(
    root: NDArray, hilum: NDArray, kidney: Kidney, abdomen: Abdomen
) -> list[NDArray[np.float64]]:
    """Way points beside the spine: around the vertebra, behind the vena cava on the right."""
    side = kidney.sign
    beside = np.array([root[0] - 3, abdomen.spine_y - 17.0, side * 24.0])
    if side < 0:
        beside[1] = abdomen.spine_y - 15.0
    return [beside, 0.45 * beside + 0.55 * hilum + np.array([2.0, 0.0, 0.0])]


def _split(radius: float, shares: NDArray) -> NDArray:
    """Radii of the children of a vessel that divide its flow by `shares` (adding to 1)."""
    return radius * shares ** (1 / RADIUS_EXPONENT)


def _grow_segments(
    rng: np.random.Generator, builder: TubeBuilder, kidney: Kidney, hilum: NDArray, radius: float
) -> None:
    middle, semi = np.array(kidney.sinus_centre), np.array(kidney.sinus_semi)
    shares = np.array([share for _, _, share in SEGMENTS]) * rng.uniform(0.8, 1.2, len(SEGMENTS))
    radii = _split(radius, shares / shares.sum())
    tips = [middle + np.array(place) * semi for _, place, _ in SEGMENTS]
    groups = _columns_by_tip(rng, kidney, tips)
    for tip, segment_radius, columns in zip(tips, radii, groups, strict=True):
        entry = middle + (tip - middle) * np.array([0.35, 0.75, 1.0])
        entry[2] = middle[2] - 0.75 * semi[2]
        end = kidney.patient(tip)
        builder.add_curve(
            [hilum, kidney.patient(entry), end], (segment_radius, segment_radius * 0.9), SEGMENTAL
        )
        if not columns:
            continue
        child = float(_split(segment_radius * 0.9, np.array([1 / len(columns)]))[0])
        for inner, outer in columns:
            path = [end, kidney.patient(inner), kidney.patient(outer)]
            builder.add_curve(path, (child, child * 0.75), INTERLOBAR)


def _columns_by_tip(
    rng: np.random.Generator, kidney: Kidney, tips: list[NDArray]
) -> list[list[tuple[NDArray, NDArray]]]:
    """For each segmental tip two or three columns: (point on the sinus, point below the cortex)."""
    columns = []
    count = len(kidney.bases)
    for first in range(count):
        gaps = np.linalg.norm(kidney.bases - kidney.bases[first], axis=1)
        for second in np.argsort(gaps)[1:5]:
            if first < second:
                inner = (kidney.apices[first] + kidney.apices[second]) / 2
                outer = (kidney.bases[first] + kidney.bases[second]) / 2
                columns.append((inner, outer))
    rng.shuffle(columns)
    taken: set[int] = set()
    groups = []
    for tip in tips:
        order = sorted(
            (i for i in range(len(columns)) if i not in taken),
            key=lambda i: float(np.linalg.norm(columns[i][0] - tip)),
        )
        chosen = order[: int(rng.integers(2, 4))]
        taken.update(chosen)
        groups.append([columns[i] for i in chosen])
    return groups


def _add_accessory(
    rng: np.random.Generator, builder: TubeBuilder, kidney: Kidney, abdomen: Abdomen
) -> None:
    pole = 1.0 if rng.random() < 0.4 else -1.0
    a, _, c = kidney.semi
    target = kidney.patient(np.array([pole * 0.8 * a, 2.0, -0.2 * c]))
    entry = kidney.patient(np.array([pole * 0.75 * a, 4.0, -0.95 * c]))
    root = trunk_point(abdomen.aorta, float(entry[0] + rng.uniform(0, 12)))
    radius = float(rng.uniform(1.1, 1.6))
    beside = np.array([0.5 * (root[0] + entry[0]), abdomen.spine_y - 18.0, kidney.sign * 24.0])
    builder.add_curve([root, beside, entry, target], (radius, radius * 0.7), TRUNK)


def draw_veins(
    rng: np.random.Generator, kidney: Kidney, abdomen: Abdomen, arteries: Tubes
) -> Tubes:
    """The venous tree: the arteries' branches shifted to the front, a trunk to the vena cava."""
    builder = TubeBuilder()
    hilum = kidney.patient(np.array([-2.0, 5.0, -1.1 * kidney.semi[2]]))
    radius = float(rng.uniform(4, 6))
    goal = trunk_point(abdomen.vena_cava, float(hilum[0] + rng.uniform(0, 10)))
    path = [hilum]
    if kidney.side == "left":
        aorta = trunk_point(abdomen.aorta, float(goal[0]))
        front = float(aorta[1] - abdomen.aorta.start_radius.max() - radius - 0.5)
        path += [np.array([hilum[0] + 2, 0.4 * hilum[1] + 0.6 * front, aorta[2] + 26])]
        path += [np.array([aorta[0], front, aorta[2] + 1])]
    else:
        path += [0.5 * (hilum + goal) + np.array([0.0, -3.0, 0.0])]
    builder.add_curve([*path, goal], (radius * 0.9, radius), TRUNK)
    shift = kidney.frame[1] * 3.0 + np.array([-1.5, 0.0, 0.0])
    branches = arteries.only(arteries.level > TRUNK)
    for number in np.unique(branches.line):
        line = branches.only(branches.line == number)
        points = [*(line.start + shift), line.end[-1] + shift]
        if line.level[0] == SEGMENTAL:
            points[0] = hilum
        widths = np.append(line.start_radius, line.end_radius[-1])
        builder.add(
            points, list(widths * (1.6 if line.level[0] == SEGMENTAL else 1.2)), int(line.level[0])
        )
    return builder.build()
