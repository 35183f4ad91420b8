"""Which arteries to clamp: what is lost, what of the tumor is covered, and the smallest sets that cover it.

To cover a tumor with its margin, every terminal branch that feeds part of either has to be closed: by
itself or by closing a branch it comes from. More of the parenchyma is lost the fewer clamps are used.
So for one clamp, two clamps … the set that loses least is found, exactly, by going up the tree
(`cheapest_sets`); the last of them loses no more than it must.

Sources:
    methods.md, section 5: the feeding branches are those whose territory meets the dilated tumor.
    Knapsack on a tree: Johnson and Niemi 1983, "On knapsacks, partitions, and a new dynamic programming
    technique for trees".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MOST_CLAMPS = 8

Sets = list[tuple[float, frozenset[int]]]  # index: clamps; what is lost, and the branches


def cheapest_sets(
    parents: Mapping[int, int], cost: Mapping[int, float], needed: frozenset[int]
) -> Sets:
    """For 0, 1, 2 … clamps the set of branches that closes all that is needed and costs least.

    Args:
        parents: Branch -> the branch it leaves, 0 if none; parents come before their children.
        cost: Terminal branch -> what is lost with it.
        needed: Terminal branches that must be closed.

    Returns:
        Cost and branches for each number of clamps up to `MOST_CLAMPS`; infinite cost where so few
        do not suffice, and no more entries than make a difference.
    """
    children: dict[int, list[int]] = {0: []}
    for branch, parent in parents.items():
        children[branch] = []
        children[parent].append(branch)
    lost = {branch: cost.get(branch, 0.0) for branch in parents}
    wanted = {branch: branch in needed for branch in parents}
    best: dict[int, Sets] = {}
    for branch in [*reversed(list(parents)), 0]:
        for child in children[branch]:
            if branch:
                lost[branch] += lost[child]
                wanted[branch] |= wanted[child]
        sets: Sets = [(0.0, frozenset())] * (MOST_CLAMPS + 1)
        for child in children[branch]:
            if wanted[child]:
                sets = _join(sets, best[child])
        if branch and wanted[branch]:
            itself = (lost[branch], frozenset({branch}))
            if not children[branch]:
                sets = [(np.inf, frozenset())] * (MOST_CLAMPS + 1)
            sets = [sets[0], *(min(one, itself, key=lambda s: s[0]) for one in sets[1:])]
            if branch in needed or children[branch]:
                sets[0] = (np.inf, frozenset())
        best[branch] = sets
    return _shorten(best[0])


def _join(first: Sets, second: Sets) -> Sets:
    """The best way to share each number of clamps between two parts of a tree."""
    joined: Sets = []
    for clamps in range(MOST_CLAMPS + 1):
        ways = [
            (first[k][0] + second[clamps - k][0], first[k][1] | second[clamps - k][1])
            for k in range(clamps + 1)
        ]
        joined.append(min(ways, key=lambda way: way[0]))
    return joined


def _shorten(sets: Sets) -> Sets:
    """Leave out what more clamps do not improve."""
    last = len(sets) - 1
    while last > 0 and sets[last - 1][0] <= sets[last][0] + 1e-9:
        last -= 1
    return sets[: last + 1]
