"""Surfaces -> files: STL and GLB for other programs, MZ3 for the page's viewer.

STL and GLB are in the patient's LPS millimetres, as DICOM and the label file are, and say so: in the STL's
header (`SPACE=LPS`, which 3D Slicer reads), in the GLB's `extras`. glTF means metres and y upwards by
convention; we keep the patient's millimetres, so that points can be compared with the scan's.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import numpy as np
import trimesh
from trimesh.exchange.stl import export_stl
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

STL_HEADER = 80  # bytes
SPACE = {"space": "LPS", "unit": "mm"}
_MZ3_MAGIC, _MZ3_HAS_FACES_AND_VERTICES = 0x5A4D, 3


def stl_bytes(surface: trimesh.Trimesh) -> bytes:
    """A binary STL file of a surface in LPS mm."""
    # names are left out: the header is ASCII, and a reader may take "solid" for the text format
    header = b"renalplan SPACE=LPS unit=mm".ljust(STL_HEADER)
    return header + bytes(export_stl(surface))[STL_HEADER:]


def glb_bytes(surfaces: Mapping[str, trimesh.Trimesh], colours: Mapping[str, str]) -> bytes:
    """A binary glTF file of surfaces in LPS mm: a node and a colour for each name."""
    scene = trimesh.Scene(metadata=dict(SPACE))
    for name, surface in surfaces.items():
        material = PBRMaterial(
            name=name,
            baseColorFactor=[*rgb(colours[name]), 255],
            metallicFactor=0.0,
            roughnessFactor=0.6,
        )
        coloured = trimesh.Trimesh(
            surface.vertices,
            surface.faces,
            vertex_normals=surface.vertex_normals,
            visual=TextureVisuals(material=material),
            metadata=dict(SPACE),
            process=False,
        )
        scene.add_geometry(coloured, node_name=name, geom_name=name)
    return bytes(scene.export(file_type="glb", include_normals=True))


def mz3_bytes(surface: trimesh.Trimesh) -> bytes:
    """A gzipped MZ3 file of a surface in LPS mm; the file is in RAS mm, as its format wants."""
    vertices = surface.vertices * (-1, -1, 1)
    # to 1/64 mm: trailing zeros compress, and nobody sees them
    vertices = np.round(vertices * 64) / 64
    head = np.array([_MZ3_MAGIC, _MZ3_HAS_FACES_AND_VERTICES], "<u2").tobytes()
    head += np.array([len(surface.faces), len(vertices), 0], "<u4").tobytes()
    body = surface.faces.astype("<i4").tobytes() + vertices.astype("<f4").tobytes()
    return gzip.compress(head + body, 9, mtime=0)


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as numbers from 0 to 255."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
