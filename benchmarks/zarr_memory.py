"""An OME-Zarr of 20,000×20,000 pixels and three channels, from disk to disk: time and peak memory.

    python benchmarks/zarr_memory.py --ckpt_path runs/NAME/*/checkpoints/best.ckpt

``segmentation predict --labels zarr`` in a process of its own, by a network of three chosen
channels. The slide repeats one field of synthetic nuclei; a corner of it says whether memory grows.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from common import Report, arguments
from large import FIELD, objects, predict

from segmentation.datasets.synthetic_nuclei import make_nuclei

CHUNK = 1000
NAMES = ("DAPI", "GFP", "TRITC")


def main() -> None:
    parser = arguments("zarr_memory", __doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="of channels [0, 1, 2]")
    parser.add_argument("--sides", type=int, nargs="+", default=[4_000, 20_000])
    args = parser.parse_args()
    report = Report("zarr_memory", "less than 2 GiB", {"sides": args.sides, "channels": len(NAMES)})
    pixels, _ = make_nuclei(np.random.default_rng(0), FIELD, FIELD, "fluorescence")
    field = np.stack([pixels[..., 0], pixels[..., 1].T, pixels[::-1, :, 2]])
    for side in args.sides:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_slide(folder / "images" / "slide.ome.zarr", field, side)
            seconds, gigabytes = predict(args.ckpt_path, folder, ("--labels", "zarr"))
            report.add(f"{side}²: time", "s", [seconds])
            report.add(f"{side}²: peak memory", "GiB", [gigabytes])
            report.add(f"{side}²: objects", "", [objects(folder)])
    report.finish(args.output)


def write_slide(path: Path, field: np.ndarray, side: int) -> None:
    """NGFF 0.5: the field, (C, H, W), repeated to a slide of half a micrometre a pixel."""
    group = zarr.create_group(path, zarr_format=3)
    shape, chunks = (len(field), side, side), (1, CHUNK, CHUNK)
    array = group.create_array("0", shape=shape, chunks=chunks, dtype=field.dtype)
    band = np.tile(field, (1, 1, -(-side // FIELD)))[..., :side]
    for top in range(0, side, FIELD):
        array[:, top : top + FIELD] = band[:, : side - top]
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    level = {"path": "0", "coordinateTransformations": scale}
    about: Any = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [level]}],
        "omero": {"channels": [{"label": name} for name in NAMES]},
    }
    group.attrs["ome"] = about


if __name__ == "__main__":
    main()
