"""Objects as GeoJSON (RFC 7946, in pixels instead of degrees), which QuPath reads as detections."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, BinaryIO

from segmentation.predict.outputs.outlines import Outline


def features(objects: Sequence[Outline], position: Mapping[str, int]) -> list[dict[str, Any]]:
    """One feature for each object of a plane.

    Args:
        objects: Their outlines.
        position: Of the plane: axis ► index. QuPath counts pages without a meaning ("I") as times.
    """
    plane = {"c": -1, "z": position.get("Z", 0), "t": position.get("T", position.get("I", 0))}
    found = []
    for outline in objects:
        polygons = [[[*ring, ring[0]] for ring in rings] for rings in outline.polygons]
        single = len(polygons) == 1
        geometry: dict[str, Any] = {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        }
        if position:
            geometry["plane"] = plane
        about = {"objectType": "detection", "name": str(outline.label)}
        found.append({"type": "Feature", "geometry": geometry, "properties": about})
    return found


class FeatureWriter:
    """Writes a file of features as they are found; close it at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._before = file, '{"type":"FeatureCollection","features":['

    def add(self, found: Iterable[Mapping[str, Any]]) -> None:
        """Append features."""
        for feature in found:
            text = json.dumps(feature, separators=(",", ":"))
            self._file.write(f"{self._before}{text}".encode())
            self._before = ","

    def close(self) -> None:
        """Complete the file, which stays open."""
        self._file.write(f"{self._before.rstrip(',')}]}}".encode())


def encode_features(found: Iterable[Mapping[str, Any]]) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    with closing(FeatureWriter(file)) as writer:
        writer.add(found)
    return file.getvalue()
