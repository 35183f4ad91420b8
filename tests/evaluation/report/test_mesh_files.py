"""What other programs read: bytes taken apart by the formats' definitions, not by the library that wrote them."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest
import trimesh

from renalplan.evaluation.report.mesh_files import glb_bytes, mz3_bytes, rgb, stl_bytes


@pytest.fixture
def box() -> trimesh.Trimesh:
    return trimesh.creation.box(bounds=[(10, -20, 300), (12, -17, 304)])


def test_stl_says_its_space_and_holds_the_points(box: trimesh.Trimesh) -> None:
    data = stl_bytes(box)
    assert data[:80].decode("ascii").split() == ["renalplan", "SPACE=LPS", "unit=mm"]
    (count,) = struct.unpack("<I", data[80:84])
    kind = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
    triangles = np.frombuffer(data[84:], kind)
    assert count == len(triangles) == 12
    corners = triangles["corners"].reshape(-1, 3)
    assert corners.min(axis=0) == pytest.approx((10, -20, 300))
    assert corners.max(axis=0) == pytest.approx((12, -17, 304))
    # outwards: away from the middle
    out = triangles["corners"].mean(axis=1) - (11, -18.5, 302)
    assert ((out * triangles["normal"]).sum(axis=1) > 0).all()


def test_glb_has_a_node_and_a_colour_for_each_name_and_says_its_space(box: trimesh.Trimesh) -> None:
    data = glb_bytes({"<script>": box, "b": box}, {"<script>": "#ff8000", "b": "#0000ff"})
    magic, version, length, head, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    content = json.loads(data[20 : 20 + head])
    assert content["scenes"][0]["extras"] == {"space": "LPS", "unit": "mm"}
    assert [node["name"] for node in content["nodes"]] == ["<script>", "b"]
    assert not any("matrix" in node for node in content["nodes"])  # the points are where they say
    colours = [m["pbrMetallicRoughness"]["baseColorFactor"] for m in content["materials"]]
    assert colours[0] == pytest.approx([1, 128 / 255, 0, 1], abs=0.01)
    assert colours[1] == pytest.approx([0, 0, 1, 1])
    places = [one for one in content["accessors"] if one.get("max", [0])[-1] == 304]
    assert places
    assert all(place["min"] == pytest.approx([10, -20, 300]) for place in places)


def test_mz3_is_in_ras(box: trimesh.Trimesh) -> None:
    data = gzip.decompress(mz3_bytes(box))
    magic, kind, faces, points, skip = struct.unpack("<HHIII", data[:16])
    assert (magic, kind, faces, points, skip) == (0x5A4D, 3, 12, 8, 0)
    vertices = np.frombuffer(data[16 + 12 * faces :], "<f4").reshape(-1, 3)
    assert vertices.min(axis=0) == pytest.approx((-12, 17, 300))
    assert vertices.max(axis=0) == pytest.approx((-10, 20, 304))
    triangles = np.frombuffer(data[16 : 16 + 12 * faces], "<i4").reshape(-1, 3)
    assert trimesh.Trimesh(vertices, triangles, process=False).volume == pytest.approx(24)
    assert mz3_bytes(box) == mz3_bytes(box)


def test_colours() -> None:
    assert rgb("#0a80ff") == (10, 128, 255)
