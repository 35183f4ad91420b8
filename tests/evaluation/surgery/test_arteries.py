"""Trees with known branches, radii and territories; breaks, loops and contacts with coordinates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from renalplan.evaluation.surgery.anatomy import find_anatomy
from renalplan.evaluation.surgery.breaks import find_breaks, find_contacts
from renalplan.evaluation.surgery.clamping import cheapest_sets
from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.sides import KidneyMasks, find_kidneys
from renalplan.evaluation.surgery.territories import divide
from renalplan.evaluation.surgery.tree import AT_AORTA, FARTHEST, ArteryTree, make_tree
from renalplan.geometry import Orientation

TURN = Rotation.from_euler("xyz", (20, 35, -30), degrees=True)
LOW, HIGH = (-18.0, -14.0, -26.0), (64.0, 14.0, 26.0)


def draw_tree(drawing, broken: bool = False) -> None:  # type: ignore[no-untyped-def]
    """A kidney (a box) left of x = 0 … and its artery from x = 60: a fork at 16, two tips each."""
    drawing.box("kidney", (-16, -12, -24), (8, 12, 24))
    drawing.tube("renal_artery", (60, 0, 0), (42 if broken else 24, 0, 0), 3.0)
    if broken:
        drawing.tube("renal_artery", (34, 0, 0), (24, 0, 0), 3.0)
    for side in (-1, 1):
        drawing.tube("renal_artery", (24, 0, 0), (8, 0, 12 * side), 1.8)
        drawing.tube("renal_artery", (8, 0, 12 * side), (-8, 6, 12 * side), 1.2)
        drawing.tube("renal_artery", (8, 0, 12 * side), (-8, -6, 12 * side), 1.2)


def masks_of(drawing, scheme, spacing=(1.0, 0.8, 0.8), turned=None) -> KidneyMasks:  # type: ignore[no-untyped-def]
    labels, grid = drawing.scan(LOW, HIGH, spacing, turned)
    labels = np.ascontiguousarray(Orientation.of(grid).apply(labels))
    return find_kidneys(labels, find_anatomy(scheme), Frame.of(grid)).kidneys[0]


def tree_of(masks: KidneyMasks) -> ArteryTree:
    tree = make_tree(masks)
    assert tree is not None
    return tree


@pytest.mark.parametrize("turned", [None, TURN], ids=["straight", "turned"])
@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (1.25, 0.7, 0.7)])
def test_a_tree_has_its_branches_lengths_and_radii(drawing, scheme, spacing, turned) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing)
    masks = masks_of(drawing, scheme, spacing, turned)
    tree = tree_of(masks)
    assert tree.root == FARTHEST
    assert [branch.generation for branch in tree.branches].count(0) == 1
    assert sorted(branch.generation for branch in tree.branches) == [0, 1, 1, 2, 2, 2, 2]
    for branch in tree.branches:
        length, radius = [(36, 3.0), (20, 1.8), (np.hypot(16, 6), 1.2)][branch.generation]
        assert branch.radius_mm == pytest.approx(radius, rel=0.12)
        assert branch.length_mm == pytest.approx(length, abs=5)  # forks lie inside the wider vessel
        assert branch.terminal == (branch.generation == 2)
        if branch.parent:
            parent = tree.branches[branch.parent - 1]
            assert parent.generation == branch.generation - 1
            gap = np.linalg.norm(parent.path[-1] - branch.path[0])
            assert gap < 2.5
    ends = {tuple(np.sign(masks.frame.point(tip.path[-1])[1:])) for tip in tree.tips}
    assert ends == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert find_breaks(tree, masks.frame) == ()
    assert len(tree.loops) == 0


def test_the_root_is_at_the_aorta_where_there_is_one(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing)
    drawing.tube("aorta", (62, 0, -26), (62, 0, 26), 5.0)
    masks = masks_of(drawing, scheme)
    tree = tree_of(masks)
    assert tree.root == AT_AORTA
    assert tree.rooted == {1}
    assert masks.frame.point(tree.branches[0].path[0])[0] == pytest.approx(57, abs=3)


def test_a_break_is_told_and_not_bridged(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing, broken=True)
    drawing.tube("aorta", (62, 0, -26), (62, 0, 26), 5.0)
    masks = masks_of(drawing, scheme)
    tree = tree_of(masks)
    (found,) = find_breaks(tree, masks.frame)
    # round ends reach 3 mm beyond 34 and 42
    assert found.at_mm == pytest.approx((37, 0, 0), abs=1.5)
    assert found.nearest_mm == pytest.approx((39, 0, 0), abs=1.5)
    assert found.gap.value == pytest.approx(2.4, abs=1)
    assert not found.speck
    lost = [branch for branch in tree.branches if branch.piece not in tree.rooted]
    assert len(lost) == 7
    assert {branch.parent for branch in lost if branch.generation == 0} == {0}


def test_a_speck_feeds_nothing_and_is_told(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing)
    drawing.ball("renal_artery", (-12, 0, 0), 1.1)
    masks = masks_of(drawing, scheme)
    tree = tree_of(masks)
    (found,) = find_breaks(tree, masks.frame)
    assert found.speck
    assert found.at_mm == pytest.approx((-12, 0, 0), abs=1.5)
    assert len(tree.branches) == 7


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.4, 0.4, 0.5), (0.2, 0.1, 0.3)])
@pytest.mark.parametrize("radius", [2.2, 3.2, 4.0])
def test_a_ball_is_one_branch_however_it_is_thinned(drawing, scheme, radius, shift) -> None:  # type: ignore[no-untyped-def]
    """Thinning leaves of it a point, a short line, or all of it."""
    draw_tree(drawing)
    drawing.ball("renal_artery", np.add((-10, 0, 0), shift), radius)
    masks = masks_of(drawing, scheme)
    tree = tree_of(masks)
    (found,) = find_breaks(tree, masks.frame)
    assert not found.speck
    (ball,) = [branch for branch in tree.branches if branch.piece not in tree.rooted]
    assert ball.terminal
    assert ball.length_mm < 3 * radius
    assert masks.frame.point(ball.path[0]) == pytest.approx(
        tuple(np.add((-10, 0, 0), shift)), abs=radius + 1
    )
    assert len(tree.loops) == 0
    assert (divide(masks.parenchyma, tree, masks.frame.spacing).owner[masks.parenchyma] > 0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("turned", [None, TURN], ids=["straight", "turned"])
def test_a_piece_within_the_kidney_begins_at_the_break(drawing, scheme, turned) -> None:  # type: ignore[no-untyped-def]
    """It is widest in its middle, which is as far from the kidney's tissue as it gets."""
    drawing.box("kidney", (-16, -12, -24), (8, 12, 24))
    drawing.tube("renal_artery", (60, 0, 14), (6, 0, 14), 2.0)
    drawing.tube("renal_artery", (-8, 0, 8), (-8, 0, -16), 1.3)
    drawing.ball("renal_artery", (-8, 0, -4), 2.2)
    masks = masks_of(drawing, scheme, turned=turned)
    tree = tree_of(masks)
    (lost,) = [branch for branch in tree.branches if branch.piece not in tree.rooted]
    assert masks.frame.point(lost.path[0]) == pytest.approx((-8, 0, 8), abs=3)
    assert masks.frame.point(lost.path[-1]) == pytest.approx((-8, 0, -16), abs=3)


@pytest.mark.parametrize("turned", [None, TURN], ids=["straight", "turned"])
def test_an_artery_within_the_kidney_begins_at_an_end(drawing, scheme, turned) -> None:  # type: ignore[no-untyped-def]
    drawing.box("kidney", (-16, -12, -24), (8, 12, 24))
    drawing.tube("renal_artery", (-8, 0, 12), (-8, 0, -16), 1.3)
    drawing.ball("renal_artery", (-8, 0, -4), 2.2)
    (branch,) = tree_of(masks_of(drawing, scheme, turned=turned)).branches
    assert branch.length_mm == pytest.approx(28, abs=4)


def test_a_loop_is_told(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing)
    drawing.tube("renal_artery", (8, 0, 12), (8, 0, -12), 1.2)
    masks = masks_of(drawing, scheme)
    (place,) = masks.frame.to_lps(tree_of(masks).loops)
    assert place == pytest.approx((8, 0, 0), abs=5)


def test_contacts_with_a_vein_are_told(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing)
    drawing.tube("renal_vein", (40, 5.5, -20), (40, 5.5, 20), 3.5)  # over the artery's wall
    drawing.tube("renal_vein", (20, -13, 0), (60, -13, 0), 2.0)  # away from it
    masks = masks_of(drawing, scheme)
    assert masks.artery is not None
    assert masks.vein is not None
    (found,) = find_contacts(masks.artery, masks.vein, masks.frame)
    assert found.at_mm == pytest.approx((40, 2.5, 0), abs=1)
    assert 4 < (found.area.value or 0) < 60
    assert find_contacts(masks.artery, np.zeros_like(masks.artery), masks.frame) == ()


@pytest.mark.parametrize("turned", [None, TURN], ids=["straight", "turned"])
def test_territories_are_the_quarters_of_a_box(drawing, scheme, turned) -> None:  # type: ignore[no-untyped-def]
    """The tips lie symmetrically about y = 0 and z = 0, and so do the borders between them."""
    draw_tree(drawing)
    masks = masks_of(drawing, scheme, turned=turned)
    tree = tree_of(masks)
    organ = masks.parenchyma
    found = divide(organ, tree, masks.frame.spacing)
    assert found is not None
    assert (found.owner[organ] > 0).all()
    assert not found.owner[~organ].any()
    assert set(np.unique(found.owner[organ])) == set(found.tips)
    voxels = np.argwhere(organ)
    points = masks.frame.to_lps(voxels * masks.frame.spacing)
    owner = found.owner[tuple(voxels.T)]
    right = 0
    for tip in tree.tips:
        end = masks.frame.to_lps(tip.path[-1])
        quarter = ((points[:, 1:] > 0) == (end[1:] > 0)).all(axis=1)
        share = (owner == tip.number).mean()
        assert share == pytest.approx(0.25, abs=0.02)
        right += np.count_nonzero(quarter & (owner == tip.number))
    assert right / len(points) > 0.95


def test_a_parents_territory_contains_its_childrens(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_tree(drawing)
    tree = tree_of(masks_of(drawing, scheme))
    for branch in tree.branches:
        assert branch.number in tree.family(branch.number)
        if branch.parent:
            assert tree.family(branch.number) < tree.family(branch.parent)
    assert tree.family(tree.branches[0].number) == {b.number for b in tree.branches}


def test_the_way_goes_through_the_kidney_not_across_a_cleft(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    """A cleft parts the tips; what lies beside it belongs to the tip on its own side, near or not."""
    drawing.box("kidney", (-16, -12, -24), (16, 12, 24))
    drawing.bodies.append((0, lambda p: (np.abs(p[:, 2] + 6) < 3) & (p[:, 0] < 13)))
    drawing.tube("renal_artery", (-18, 0, -16), (-10, 0, -16), 1.2)
    drawing.tube("renal_artery", (-18, 0, 20), (-10, 0, 20), 1.2)
    masks = masks_of(drawing, scheme)
    tree = tree_of(masks)
    found = divide(masks.parenchyma, tree, masks.frame.spacing)
    assert found is not None
    low = min(tree.tips, key=lambda tip: masks.frame.to_lps(tip.path[-1])[2])
    voxels = np.argwhere(masks.parenchyma)
    points = masks.frame.to_lps(voxels * masks.frame.spacing)
    owner = found.owner[tuple(voxels.T)]
    # 15 mm from the lower tip in a straight line, 21 mm from the upper one, but over the bridge 47
    across = (points[:, 2] > -3) & (points[:, 2] < 0) & (points[:, 0] < -6)
    assert (owner[across] != low.number).all()


def test_no_territory_without_an_artery_near_the_kidney(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    drawing.box("kidney", (-16, -12, -24), (8, 12, 24))
    drawing.tube("renal_artery", (60, 0, 0), (30, 0, 0), 2.0)
    masks = masks_of(drawing, scheme)
    assert divide(masks.parenchyma, tree_of(masks), masks.frame.spacing) is None


@st.composite
def trees(draw):  # type: ignore[no-untyped-def]
    size = draw(st.integers(1, 9))
    parents = {n: draw(st.integers(0, n - 1)) for n in range(1, size + 1)}
    tips = [n for n in parents if n not in parents.values()]
    cost = {n: float(draw(st.integers(1, 9))) for n in tips}
    needed = draw(st.sets(st.sampled_from(tips), min_size=1))
    return parents, cost, frozenset(needed)


@settings(max_examples=60, deadline=None)
@given(trees())
def test_the_sets_to_clamp_are_the_cheapest_of_all(tree) -> None:  # type: ignore[no-untyped-def]
    parents, cost, needed = tree

    def tips(branch: int) -> set[int]:
        below = [tips(child) for child, parent in parents.items() if parent == branch]
        return set().union(*below) if below else {branch}

    under = {branch: tips(branch) for branch in parents}

    def closed(branches: tuple[int, ...]) -> set[int]:
        return set().union(*(under[branch] for branch in branches)) if branches else set()

    sets = cheapest_sets(parents, cost, needed)
    for clamps, (lost, branches) in enumerate(sets):
        every = [
            sum(cost[tip] for tip in closed(chosen))
            for k in range(clamps + 1)
            for chosen in combinations(parents, k)
            if needed <= closed(chosen)
        ]
        assert lost == (min(every) if every else np.inf)
        if every:
            assert needed <= closed(tuple(branches))
            assert len(branches) <= clamps
            assert sum(cost[tip] for tip in closed(tuple(branches))) == lost
    assert sets[-1][0] == sum(cost[tip] for tip in needed)  # no more than it must
