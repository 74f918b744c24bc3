"""Objects as GeoJSON (RFC 7946, in pixels instead of degrees), which QuPath reads as detections."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from segmentation.outputs.outlines import Outline


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


def encode_features(found: Sequence[Mapping[str, Any]]) -> bytes:
    """The file's bytes."""
    collection = {"type": "FeatureCollection", "features": list(found)}
    return json.dumps(collection, separators=(",", ":")).encode()
