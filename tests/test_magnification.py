"""The magnification at which objects are those of the training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segmentation.__main__ import main
from segmentation.app.server import result
from segmentation.checkpoints import load
from segmentation.data.diameters import TrainingDiameters
from segmentation.data.preprocess import Preprocess
from segmentation.data.resize import resize_image
from segmentation.errors import UserError
from segmentation.io.images import write_image
from segmentation.magnification import agreement, find_magnification
from segmentation.predictor import Predictor
from tests.data.test_diameters import picture
from tests.predict.predicting import argv, make_checkpoint, rows

TRAINING = TrainingDiameters.of([picture(i, 40 + i, 6 + i % 3) for i in range(30)])  # 13 pixels


def discs(radius: int, size: int = 128, step: int = 32) -> np.ndarray:
    down, across = np.mgrid[:size, :size]
    inside = (down % step - step // 2) ** 2 + (across % step - step // 2) ** 2 < radius**2
    return np.asarray(np.where(inside, 1 + down // step * 99 + across // step, 0))


@pytest.mark.parametrize(("radius", "wanted"), [(13, 0.5), (7, 1.0), (3, 2.0)])
def test_objects_of_a_known_size(radius: int, wanted: float) -> None:
    assert find_magnification(lambda scale: discs(radius), 1.0, TRAINING) == wanted


def test_pieces_of_the_right_size_do_not_decide() -> None:
    """Objects that break into other pieces at each magnification agree with nothing."""
    seen = []

    def find(scale: float) -> np.ndarray:
        seen.append(scale)
        rng = np.random.default_rng(len(seen))
        pieces = np.roll(discs(7), rng.integers(8, 24, 2), (0, 1))
        return pieces if scale < 1 else discs(5)

    assert find_magnification(find, 1.0, TRAINING) == pytest.approx(2**0.5)
    assert seen == pytest.approx([0.5, 2**-0.5, 1, 2**0.5, 2])


def test_what_cannot_be_sized() -> None:
    empty = np.zeros((64, 64), int)
    assert find_magnification(lambda scale: empty, 1.0, TRAINING) is None
    assert find_magnification(lambda scale: discs(60, 128, 128), 1.0, TRAINING) is None
    assert agreement(empty, empty) == 0 and agreement(discs(7), discs(7)) == 1


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint whose foreground is what is bright, and what it was trained on."""
    path = make_checkpoint(tmp_path_factory.mktemp("c") / "described.ckpt")
    content = torch.load(path, weights_only=True)
    samples = (picture(i, 40 + i, 6 + i % 3) for i in range(30))
    prepared = (Preprocess("rgb").prepare_sample(sample) for sample in samples)
    content["segmentation"]["training_diameters"] = TrainingDiameters.of(prepared).plain()
    torch.save(content, path)
    return path


def found(model: Predictor, image: np.ndarray, **more: Any) -> Any:
    return model.predict(image, probabilities=True, **more)


def test_diameter_of_any_network_that_knows_its_own(described: Path) -> None:
    model, image = load(described), picture(5, 45, 7).image
    seen = model.seen or 0.0
    twice = resize_image(image, (128, 128))
    assert found(model, image).magnification == 1
    told = found(model, twice, diameter=2 * seen)
    assert told.magnification == pytest.approx(0.5)
    assert found(model, image, diameter="auto").magnification == 1
    assert found(model, twice, diameter="auto").magnification == pytest.approx(0.5, rel=0.5)
    model.adapt(diameter=2 * seen)
    np.testing.assert_array_equal(model.predict(twice), told.labels)
    model.adapt(diameter="auto")
    assert found(model, twice).sized and model.told == "auto"
    with pytest.warns(UserWarning, match="kept at its own magnification: its objects cannot"):
        assert found(model, np.zeros_like(image)).magnification == 1


def test_a_folder(described: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    write_image(images / "a.png", picture(5, 45, 7).image)
    write_image(images / "b.png", resize_image(picture(6, 45, 7).image, (128, 128)))
    write_image(images / "d.png", np.zeros((64, 64, 1), np.uint8))
    assert main(argv(described, images, tmp_path / "out")) == 0
    own = rows(tmp_path / "out/images.csv")
    assert not {"magnification", "sized", "unlike"} & {*own[0]}
    assert "kept at" not in capsys.readouterr().out
    for again in range(2):  # the second time nothing is left to do, and the same is said
        assert main(argv(described, images, tmp_path / "auto", "--diameter", "auto")) == 0
        said = capsys.readouterr().out
        assert "kept at its own magnification: its objects cannot be sized  " in said, again
        assert "d.png" in said
    sized = rows(tmp_path / "auto/images.csv")
    assert [*sized[0]][-1] == "magnification"
    assert float(sized[0]["magnification"]) == 1 == float(sized[2]["magnification"])
    assert float(sized[1]["magnification"]) < 0.75


def test_the_page_says_the_same(described: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "d.png", np.zeros((64, 64, 1), np.uint8))
    data, model = (tmp_path / "d.png").read_bytes(), load(described)
    pages = [result(model, "d.png", data, str(tmp_path))]
    model.adapt(diameter="auto")
    pages.append(result(model, "d.png", data, str(tmp_path)))
    assert ["its objects cannot be sized" in page for page in pages] == [False, True]


def test_bad_diameters(
    described: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for bad in ("big", "-3"):
        assert main(argv(described, tmp_path, tmp_path / "out", "--diameter", bad)) == 2
    errors = capsys.readouterr().err
    assert "--diameter big: must be a number or one of auto" in errors
    with pytest.raises(UserError, match="--diameter 'big' must be positive"):
        load(described).adapt(diameter="big")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="auto: the checkpoint does not tell the diameters"):
        load(checkpoint).adapt(diameter="auto")
    content = torch.load(described, weights_only=True)
    content["segmentation"]["training_diameters"] = "x"
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match="diameters of the training images are broken"):
        load(tmp_path / "broken.ckpt")
