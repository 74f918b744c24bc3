import csv
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from segmentation.__main__ import main
from segmentation.checkpoint import load_task
from segmentation.data.images import read_image, read_mask
from segmentation.data.synthetic import write_folder
from segmentation.predict import probabilities
from tests.helpers import fit, refusal


@pytest.fixture(scope="module")
def checkpoint(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return (
        fit(dsb_root, tmp_path_factory.mktemp("runs"), "--trainer.max_epochs=3")
        / "checkpoints/best.ckpt"
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of several formats, sizes and channel counts, one in a subfolder."""
    folder = tmp_path / "images"
    for number, (suffix, bits, channels) in enumerate(
        [(".png", 8, 3), (".tif", 16, 1), (".jpg", 8, 3)]
    ):
        root = write_folder(
            tmp_path / f"w{number}",
            1,
            number,
            suffix=suffix,
            bits=bits,
            channels=channels,  # type: ignore[arg-type]
            size=(40 + number, 53),
        )
        (image,) = (root / "images").iterdir()
        target = folder / ("sub" if number == 1 else ".") / f"image{number}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
    return folder


def argv(checkpoint: Path, images: Path, output: Path, *more: str) -> list[str]:
    return [
        "predict",
        "--ckpt_path",
        str(checkpoint),
        "--data.images",
        str(images),
        "--output",
        str(output),
        *more,
    ]


def test_masks_have_the_images_own_sizes_and_names(
    checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert (
        main(
            argv(
                checkpoint,
                images,
                out,
                "--probabilities",
                "--labels",
                "--overlays",
                "--device",
                "cpu",
            )
        )
        == 0
    )
    masks = {p.relative_to(out / "masks").as_posix(): p for p in (out / "masks").rglob("*.*")}
    assert set(masks) == {
        "image0.png",
        "sub/image1.tif",
        "image2.png",
    }  # a JPEG mask would be lossy
    task = load_task(checkpoint)
    with (out / "objects.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"image0.png", "sub/image1.tif", "image2.jpg"}
    for name, row in rows.items():
        image = read_image(images / name)
        probs = probabilities(task, image)
        mask = read_mask(masks[name.replace(".jpg", ".png")])
        assert mask.shape == image.shape[:2]
        assert np.array_equal(mask > 0, probs[0] > 0.5) and set(np.unique(mask)) <= {0, 255}
        tiff = Path(name).with_suffix(".tif")
        stored = tifffile.imread(out / "probabilities" / tiff)
        assert np.abs(stored / 65535 - probs[0]).max() <= 0.5 / 65535 + 1e-7
        labels = tifffile.imread(out / "labels" / tiff)
        assert labels.dtype == np.uint16
        assert int(row["objects"]) == labels.max() == cv2.connectedComponents(mask)[0] - 1
        assert int(row["foreground_pixels"]) == (mask > 0).sum()
        if labels.max():
            areas = np.bincount(labels.ravel())[1:]
            assert float(row["mean_area"]) == pytest.approx(areas.mean(), abs=0.01)
        assert (
            cv2.imread(str(out / "overlays" / Path(name).with_suffix(".png"))).shape[:2]
            == mask.shape
        )


def test_a_bad_file_is_named_and_does_not_stop_the_rest(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes((images / "image0.png").read_bytes()[:200])
    (images / "text.png").write_text("hello")
    assert main(argv(checkpoint, images, tmp_path / "out")) == 1
    captured = capsys.readouterr()
    assert (
        "broken.png: the PNG is truncated" in captured.err and "text.png: not a PNG" in captured.err
    )
    assert "Traceback" not in captured.err
    assert len((tmp_path / "out/objects.csv").read_text().splitlines()) == 4


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/must-not-exist"),))  # type: ignore[return-value]


def test_checkpoints_of_another_kind_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.ckpt"
    for write, said in (
        (lambda: path.write_text("hello"), "not a checkpoint"),
        (lambda: path.write_bytes(b""), "not a checkpoint"),
        (lambda: torch.save({"state_dict": {}}, path), "of another kind"),
        (lambda: torch.save([1, 2], path), "of another kind"),
        (lambda: torch.save({"a": Evil()}, path), "could run code"),
        (lambda: path.write_bytes(pickle.dumps(Evil())), "not a checkpoint"),
    ):
        write()
        line = refusal(capsys, argv(path, images, tmp_path / "out"))
        assert said in line and "x.ckpt" in line
    assert not (tmp_path / "out").exists() and not Path("/tmp/must-not-exist").exists()


def test_bad_arguments(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "no such folder" in refusal(capsys, argv(checkpoint, tmp_path / "nope", out))
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refusal(capsys, argv(checkpoint, tmp_path / "empty", out))
    assert "--device" in refusal(capsys, argv(checkpoint, images, out, "--device", "warp9"))
    assert "--output" in refusal(capsys, ["predict", "--ckpt_path", "x", "--data.images", "y"])
    assert "/dev/null" in refusal(capsys, argv(checkpoint, images, Path("/dev/null/out")))
