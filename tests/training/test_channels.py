"""Trainings on two and six channels, from files to a prediction that is scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segmentation.__main__ import main
from segmentation.datasets.synthetic import write_folder
from segmentation.io.images import read_image, read_mask
from tests.helpers import arguments, refusal, scores

NAMES = ["DAPI", "GFP", "TRITC", "Cy5", "BF", "Phase"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six channels a TIFF; the nuclei are bright in two of them."""
    folder = write_folder(tmp_path / "data", 8, masks="labels", channels=1, size=(64, 64))
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images").glob("*.png")):
        gray = read_image(path)[..., 0].astype(np.uint16)
        image = rng.integers(0, 900, (6, 64, 64)).astype(np.uint16)
        image[1], image[4] = gray * 40, gray
        about = {"axes": "CYX", "Channel": {"Name": NAMES}}
        tifffile.imwrite(path.with_suffix(".tif"), image, ome=True, metadata=about,
                         photometric="minisblack")  # fmt: skip
        path.unlink()
    return folder


@pytest.mark.parametrize(
    ("channels", "augmentation"), [("[GFP, BF]", "unetpp_keras"), ("[0,1,2,3,4,5]", "nuclei")]
)
def test_train_test_and_predict(
    root: Path, tmp_path: Path, channels: str, augmentation: str, capsys: Any
) -> None:
    count = channels.count(",") + 1
    more = [f"--model.preprocess.channels={channels}", f"--model.net.in_channels={count}",
            f"--data.augmentation={augmentation}", "--data.mask_type=labels"]  # fmt: skip
    runs = tmp_path / "runs"
    assert main(arguments("fit", root, runs, *more, config="folder.yaml")) == 0
    (run,) = runs.glob("*/*")
    assert scores(run)
    (checkpoint,) = run.glob("checkpoints/best*.ckpt")
    command = ["predict", "--ckpt_path", str(checkpoint), "--data.images", str(root / "images")]
    out = tmp_path / "out"
    assert main([*command, "--output", str(out), "--device=cpu", "--labels", "--overlays"]) == 0
    assert len(list((out / "masks").iterdir())) == 8
    assert read_mask(next((out / "labels").iterdir())).shape == (64, 64)
    header = (out / "objects.csv").read_text().splitlines()[0]
    assert header.endswith(",".join(f"intensity_mean_{name}" for name in NAMES))
    evaluated = ["evaluate", "--truth", str(root / "masks"), "--prediction", str(out / "labels")]
    images = ["--images", str(root / "images"), "--output", str(tmp_path / "scores")]
    assert main([*evaluated, *images]) == 0
    if count == 2:
        wrong = arguments(
            "fit", root, runs, *more, "--model.net.in_channels=3", config="folder.yaml"
        )
        assert "in_channels" in refusal(capsys, wrong)
        wrong = arguments("fit", root, runs, *more, "--model.preprocess.channels=rgb",
                          config="folder.yaml")  # fmt: skip
        wrong = [a for a in wrong if not a.startswith("--model.net.in_channels")]
        assert "has 6 channels (DAPI, GFP" in refusal(capsys, wrong)
