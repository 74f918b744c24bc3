"""Films of the Cell Tracking Challenge: gold, silver and both, in every layout and broken."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.sample import PARTS, Sample
from segmentation.data.splits import BlockSplit
from segmentation.datasets.dic_hela import DICHeLa, DICHeLaDataModule, Truth, completed
from segmentation.datasets.synthetic import write_dic_hela
from segmentation.objects import renumber
from tests.datasets.test_readers import refusal, same
from tests.errors import refuses

NAME = "DIC-C2DH-HeLa"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of 10 frames, 48×64. Do not change it."""
    return write_dic_hela(tmp_path_factory.mktemp("dic"), 20, (48, 64))


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt: the data set's own folder."""
    return Path(shutil.copytree(root / NAME, tmp_path / NAME))


def samples(root: Path, truth: Truth = "best") -> dict[str, Sample]:
    return {sample.id: sample for sample in DICHeLa(str(root), truth)}


def labels(sample: Sample) -> np.ndarray:
    assert sample.labels is not None
    return sample.labels


def test_samples(root: Path) -> None:
    silver = samples(root, "silver")
    assert list(silver) == [f"{s}/t{t:03}" for s in ("01", "02") for t in range(10)]
    for name, sample in silver.items():
        sequence, frame = name.split("/")
        assert (sample.group, sample.kind, sample.subset) == (sequence, "", "")
        files = f"{sequence}/{frame}.tif", f"{sequence}_ST/SEG/man_seg{frame[1:]}.tif"
        image, truth = (cv2.imread(str(root / NAME / f), cv2.IMREAD_UNCHANGED) for f in files)
        np.testing.assert_array_equal(sample.image[..., 0], image)  # type: ignore[arg-type]
        np.testing.assert_array_equal(labels(sample), renumber(truth))  # type: ignore[arg-type]
    assert len({DICHeLa("x", truth).name for truth in ("gold", "silver", "best")}) == 3


def test_gold_leaves_out_and_best_fills_in(root: Path) -> None:
    gold, silver, best = (samples(root, truth) for truth in ("gold", "silver", "best"))
    assert list(gold) == [f"{s}/t{t:03}" for s in ("01", "02") for t in (1, 4, 7)]
    assert list(best) == list(silver)
    for name, sample in best.items():
        if name not in gold:
            np.testing.assert_array_equal(labels(sample), labels(silver[name]))
            continue
        drawn = labels(gold[name])
        np.testing.assert_array_equal(labels(sample)[drawn > 0], drawn[drawn > 0])
        assert labels(sample).max() == labels(silver[name]).max()
        assert (drawn.max() < labels(sample).max()) == name.endswith("7")


def test_completed() -> None:
    gold = np.array([[0, 0, 5, 5, 5, 0, 0, 0]], np.uint16)
    silver = np.array([[9, 9, 9, 3, 3, 2, 2, 2]], np.uint16)
    # 9: a third is gold's, so gold left it out; 3: all is gold's; 2: none is.
    assert completed(gold, silver).tolist() == [[14, 14, 5, 5, 5, 7, 7, 7]]
    half = np.array([[0, 0, 5, 5, 0, 0, 0, 0]], np.uint16)  # covers half of 4, two thirds of 7
    other = np.array([[4, 0, 4, 7, 7, 0, 0, 0]], np.uint16)
    np.testing.assert_array_equal(completed(half, other), half)
    np.testing.assert_array_equal(completed(gold * 0, silver), silver)
    np.testing.assert_array_equal(completed(gold, silver * 0), gold)
    most = np.array([[65535, 0]], np.uint16)
    assert completed(most, most[:, ::-1]).tolist() == [[65535, 131070]]


def test_other_places(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / NAME, tmp_path / "twice" / NAME / NAME)
    shutil.copytree(root / NAME, tmp_path / "both" / NAME)
    (tmp_path / "both" / f"{NAME}.zip").write_bytes(b"the folder is taken")
    shutil.copytree(root / NAME / "01", tmp_path / "both" / ".trash" / "01")
    for place in ("twice", "both"):
        same(list(DICHeLa(str(tmp_path / place))), list(DICHeLa(str(root))))
    shutil.copytree(root / NAME, tmp_path / "both" / "PhC-C2DH-U373")
    says = f"holds {NAME} and PhC-C2DH-U373; put each into a root of its own"
    assert says in refusal(DICHeLa(str(tmp_path / "both")))


def test_other_sets_of_the_challenge(tmp_path: Path) -> None:
    """16 bits, four digits beside three, another size, gold for one frame in part."""
    folder = tmp_path / "Fluo-N2DL-HeLa"
    for name in ("01", "01_GT/SEG", "01_GT/TRA"):
        (folder / name).mkdir(parents=True)
    truth = np.zeros((70, 110), np.uint16)
    truth[5:20, 7:30], truth[40:50, 60:90] = 300, 70
    image = np.random.default_rng(0).integers(0, 60000, truth.shape).astype(np.uint16)
    for time in (0, 999, 1000):
        cv2.imwrite(str(folder / f"01/t{time:04}.tif"), image)
    cv2.imwrite(str(folder / "01_GT/SEG/man_seg1000.tif"), truth)
    cv2.imwrite(str(folder / "01_GT/TRA/man_track0000.tif"), truth)
    cv2.imwrite(str(folder / "01_GT/SEG/man_seg999.tif"), truth * 0)
    for which in ("gold", "best"):
        found = samples(tmp_path, which)
        assert list(found) == ["01/t0999", "01/t1000"]
        np.testing.assert_array_equal(found["01/t1000"].image[..., 0], image)
        np.testing.assert_array_equal(labels(found["01/t1000"]), 1 * (truth > 0) + (truth == 300))
        assert labels(found["01/t0999"]).max() == 0
    silver = DICHeLa(str(tmp_path), "silver")
    assert "sequence 01 has truth in 01_ST/SEG; add it" in refusal(silver)


def test_what_is_missing(broken: Path) -> None:
    data = DICHeLa(str(broken))
    (broken / "01_ST/SEG/man_seg003.tif").unlink()
    assert "01/t003" not in samples(broken)  # neither gold nor silver
    (broken / "01/t004.tif").unlink()
    for folder in ("01_GT", "01_ST"):
        says = f"{folder}/SEG/man_seg004.tif: a mask with no image; add 01/t004.tif or"
        assert says in refusal(data)
        (broken / folder / "SEG/man_seg004.tif").unlink()
    shutil.rmtree(broken / "02_GT/SEG")
    assert len(samples(broken)) == 18
    line = refusal(DICHeLa(str(broken), "gold"))
    assert f"{NAME}: no frame of sequence 02 has truth in 02_GT/SEG; add it, remove 02" in line
    assert line.endswith("or change the truth from gold")
    shutil.rmtree(broken / "02_ST")
    assert "no frame of sequence 02 has truth in 02_GT/SEG or 02_ST/SEG" in refusal(data)
    shutil.copy(broken / "02/t004.tif", broken / "02/t0004.tif")
    assert "02/t004.tif: is there again as 02/t0004.tif; keep one" in refusal(data)
    shutil.rmtree(broken / "02")
    module = DICHeLaDataModule(str(broken), crop=32, num_workers=0)
    refuses("two sequences are needed, there is 01; use BlockSplit", module.setup, "fit")
    DICHeLaDataModule(str(broken), split=BlockSplit(), crop=32, num_workers=0).setup("fit")


def test_real_data(real_data: Path) -> None:
    """The counts of the official archive, gaps in gold included; one frame in twelve is decoded."""
    if not (real_data / "dic_hela").is_dir():
        pytest.skip("no DIC-HeLa among the real data")
    best, gold = (DICHeLa(str(real_data / "dic_hela"), truth) for truth in ("best", "gold"))
    assert Counter(record.group for record in best.records) == {"01": 84, "02": 84}
    drawn = {sample.id: sample for sample in gold}
    assert Counter(sample.group for sample in drawn.values()) == {"01": 9, "02": 9}
    assert labels(drawn["01/t067"]).max() == 3
    for record in best.records:
        if record.id in drawn or record.id.endswith("0"):
            sample = best.read(record)
            assert sample.image.shape == (512, 512, 1) and 9 <= labels(sample).max() <= 18
            if record.id in drawn:
                left_out = {"01/t067": 15, "02/t042": 1, "02/t061": 1}.get(record.id, 0)
                assert labels(sample).max() == labels(drawn[record.id]).max() + left_out
    module = DICHeLaDataModule(str(real_data / "dic_hela"))
    split = module.splitter([*drawn.values()])
    assert [len(getattr(split, part)) for part in PARTS] == [7, 1, 9]
