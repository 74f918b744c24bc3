"""Films of the Cell Tracking Challenge: gold, silver and both, in every layout and broken."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.cache import decoded
from segmentation.data.sample import Sample
from segmentation.data.splits import PARTS, BlockSplit
from segmentation.datasets.dic_hela import DICHeLa, DICHeLaDataModule, Truth, completed
from segmentation.datasets.synthetic import write_dic_hela
from segmentation.errors import UserError
from segmentation.objects import renumber

NAME = "DIC-C2DH-HeLa"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of 10 frames, 48×64. Do not change it."""
    return write_dic_hela(tmp_path_factory.mktemp("dic"), 20, (48, 64))


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt: the dataset's own folder."""
    return Path(shutil.copytree(root / NAME, tmp_path / NAME))


def samples(root: Path, truth: Truth = "best") -> dict[str, Sample]:
    source = DICHeLa(str(root), truth)
    return {record.id: source.read(record) for record in source.index()}


def refusal(root: Path, truth: Truth = "best") -> str:
    with pytest.raises(UserError) as caught:
        samples(root, truth)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tiff(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def labels(sample: Sample) -> np.ndarray:
    assert sample.labels is not None
    return sample.labels


def test_samples(root: Path) -> None:
    silver = samples(root, "silver")
    assert list(silver) == [f"{s}/t{t:03}" for s in ("01", "02") for t in range(10)]
    for name, sample in silver.items():
        sequence, frame = name.split("/")
        assert (sample.id, sample.group, sample.kind, sample.subset) == (name, sequence, "", "")
        image = tiff(root / NAME / sequence / f"{frame}.tif")
        np.testing.assert_array_equal(sample.image, image[..., None])
        truth = tiff(root / NAME / f"{sequence}_ST" / "SEG" / f"man_seg{frame[1:]}.tif")
        assert labels(sample).dtype == np.int32
        ids = np.unique(truth)
        for place, value in enumerate(ids):  # renumbered in order, without gaps
            np.testing.assert_array_equal(labels(sample) == place, truth == value)


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
    assert all(
        labels(gold[name]).max() < labels(best[name]).max() for name in ("01/t007", "02/t007")
    )
    assert all(labels(gold[f"01/t00{t}"]).max() == labels(best[f"01/t00{t}"]).max() for t in (1, 4))


def test_completed() -> None:
    gold = np.array([[0, 0, 5, 5, 5, 0, 0, 0]], np.uint16)
    silver = np.array([[9, 9, 9, 3, 3, 2, 2, 2]], np.uint16)
    # 9: a third is gold's, so gold left it out; 3: all is gold's; 2: none is.
    wanted = np.array([[14, 14, 5, 5, 5, 7, 7, 7]])
    np.testing.assert_array_equal(completed(gold, silver), wanted)
    half = np.array([[0, 0, 5, 5, 0, 0, 0, 0]], np.uint16)  # covers half of 4, two thirds of 7
    other = np.array([[4, 4, 4, 7, 7, 0, 0, 4]], np.uint16) * np.uint16([1, 0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(completed(half, other), half)
    nothing = np.zeros_like(gold)
    np.testing.assert_array_equal(renumber(completed(nothing, silver)), renumber(silver))
    np.testing.assert_array_equal(completed(gold, nothing), gold)
    most = np.array([[65535, 0]], np.uint16)
    np.testing.assert_array_equal(completed(most, most[:, ::-1]), [[65535, 131070]])


def test_every_place_is_the_same(root: Path, tmp_path: Path) -> None:
    write_dic_hela(tmp_path / "zip", 20, (48, 64), zipped=True)
    shutil.copytree(root / NAME, tmp_path / "twice" / NAME / NAME)
    shutil.copytree(root / NAME, tmp_path / "both" / NAME)
    (tmp_path / "both" / f"{NAME}.zip").write_bytes(b"the folder is taken")
    shutil.copytree(root / NAME / "01", tmp_path / "both" / ".trash" / "01")
    for place in (root / NAME, tmp_path / "zip", tmp_path / "twice", tmp_path / "both"):
        found = samples(place)
        assert list(found) == list(samples(root))
        for name, sample in samples(root).items():
            np.testing.assert_array_equal(found[name].image, sample.image)
            np.testing.assert_array_equal(labels(found[name]), labels(sample))


def test_other_sets_of_the_challenge(tmp_path: Path) -> None:
    """16 bits, four digits beside three, another size, gold for one frame in part."""
    for folder in ("01", "01_GT/SEG", "01_GT/TRA"):
        (tmp_path / "Fluo-N2DL-HeLa" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    truth = np.zeros((70, 110), np.uint16)
    truth[5:20, 7:30], truth[40:50, 60:90] = 300, 70
    for time in (0, 999, 1000):
        image = rng.integers(0, 60000, truth.shape).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"Fluo-N2DL-HeLa/01/t{time:04}.tif"), image)
    cv2.imwrite(str(tmp_path / "Fluo-N2DL-HeLa/01_GT/SEG/man_seg1000.tif"), truth)
    cv2.imwrite(str(tmp_path / "Fluo-N2DL-HeLa/01_GT/TRA/man_track0000.tif"), truth)
    cv2.imwrite(str(tmp_path / "Fluo-N2DL-HeLa/01_GT/SEG/man_seg999.tif"), truth * 0)
    for which in ("gold", "best"):
        found = samples(tmp_path, which)
        assert list(found) == ["01/t0999", "01/t1000"]
        assert found["01/t1000"].image.dtype == np.uint16
        np.testing.assert_array_equal(found["01/t1000"].image[..., 0], image)
        np.testing.assert_array_equal(labels(found["01/t1000"]), 1 * (truth > 0) + (truth == 300))
        assert labels(found["01/t0999"]).max() == 0
    assert "sequence 01 has truth in 01_ST/SEG; add it" in refusal(tmp_path, "silver")


def test_truth_is_missing(broken: Path) -> None:
    (broken / "01_ST/SEG/man_seg003.tif").unlink()
    assert "01/t003" not in samples(broken)  # neither gold nor silver
    shutil.rmtree(broken / "02_GT/SEG")
    assert len(samples(broken, "best")) == 19
    line = refusal(broken, "gold")
    assert f"{NAME}: no frame of sequence 02 has truth in 02_GT/SEG; add it, remove 02" in line
    assert line.endswith("or change the truth from gold")
    shutil.rmtree(broken / "02_ST")
    assert "no frame of sequence 02 has truth in 02_GT/SEG or 02_ST/SEG" in refusal(broken)


def test_frames_are_missing(broken: Path) -> None:
    (broken / "01/t004.tif").unlink()
    for folder in ("01_GT", "01_ST"):
        line = refusal(broken)
        assert f"{folder}/SEG/man_seg004.tif: a mask with no image; add 01/t004.tif or" in line
        (broken / folder / "SEG/man_seg004.tif").unlink()
    assert len(samples(broken)) == 19
    shutil.rmtree(broken / "01")
    assert "01_GT/SEG/man_seg00" in refusal(broken)


def test_a_missing_sequence(broken: Path) -> None:
    for path in broken.glob("02*"):
        shutil.rmtree(path)
    module = DICHeLaDataModule(str(broken), crop=32, num_workers=0)
    with pytest.raises(UserError, match="two sequences are needed, there is 01; use BlockSplit"):
        module.setup("fit")
    DICHeLaDataModule(str(broken), split=BlockSplit(), crop=32, num_workers=0).setup("fit")


def test_nothing_or_too_much(root: Path, tmp_path: Path) -> None:
    assert "the data root is empty; put DIC-C2DH-HeLa.zip" in refusal(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert "holds no Cell Tracking Challenge data; put DIC-C2DH-HeLa.zip" in refusal(tmp_path)
    (tmp_path / "01").mkdir()
    assert "holds no frames 01/tTTT.tif" in refusal(tmp_path)
    (tmp_path / "01").rmdir()
    for name in ("PhC-C2DH-U373", NAME):
        shutil.copytree(root / NAME, tmp_path / name)
    assert f"holds {NAME} and PhC-C2DH-U373; put each into a root of its own" in refusal(tmp_path)
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip" / "a.zip").write_bytes(b"<html>")
    assert "a.zip: cannot be read as zip" in refusal(tmp_path / "zip")


def test_broken_files(broken: Path) -> None:
    silver, frame = broken / "02_ST/SEG/man_seg005.tif", broken / "02/t005.tif"
    whole = silver.read_bytes()
    cv2.imwrite(str(silver), np.zeros((64, 48), np.uint16))
    assert "man_seg005.tif: the mask is 64×48 (H×W) but its image is 48×64" in refusal(broken)
    silver.write_bytes(whole[: len(whole) // 2])
    assert "02_ST/SEG/man_seg005.tif: the TIFF" in refusal(broken)
    silver.write_bytes(whole)
    frame.write_bytes(frame.read_bytes()[:100])
    with pytest.raises(UserError, match=r"02/t005\.tif: the TIFF"):  # before any training
        decoded(DICHeLa(str(broken)))
    shutil.copy(broken / "02/t004.tif", broken / "02/t0004.tif")
    assert "02/t004.tif: is the same frame as 02/t0004.tif; keep one" in refusal(broken)


def test_stamps_and_names(broken: Path) -> None:
    def stamps(truth: Truth) -> dict[str, str]:
        return {record.id: record.stamp for record in DICHeLa(str(broken), truth).index()}

    before = stamps("best"), stamps("gold")
    cv2.imwrite(str(broken / "01_GT/SEG/man_seg004.tif"), np.ones((48, 64), np.uint16))
    after = stamps("best"), stamps("gold")
    assert [{n for n in a if a[n] != b[n]} for a, b in zip(after, before, strict=True)] == [
        {"01/t004"},
        {"01/t004"},
    ]
    assert len({DICHeLa("x", truth).name for truth in ("gold", "silver", "best")}) == 3


def test_default_split(root: Path) -> None:
    module = DICHeLaDataModule(str(root), crop=32, num_workers=0)
    module.setup("fit")
    assert module.split.test == tuple(f"02/t{t:03}" for t in range(10))
    assert module.split.val == ("01/t008", "01/t009")
    assert module.split.train == tuple(f"01/t{t:03}" for t in range(7))


def test_real_data(real_data: Path) -> None:
    """The counts of the official archive, gaps in gold included; one frame in twelve is decoded."""
    if not (real_data / "dic_hela").is_dir():
        pytest.skip("no DIC-HeLa among the real data")
    sources = {truth: DICHeLa(str(real_data / "dic_hela"), truth) for truth in ("gold", "best")}
    records = {truth: source.index() for truth, source in sources.items()}
    assert Counter(record.group for record in records["best"]) == {"01": 84, "02": 84}
    gold = {record.id: sources["gold"].read(record) for record in records["gold"]}
    assert Counter(sample.group for sample in gold.values()) == {"01": 9, "02": 9}
    assert labels(gold["01/t067"]).max() == 3
    found = {r.id: sources["best"].read(r) for r in records["best"] if r.id in gold}
    for record in records["best"][::12]:
        found[record.id] = sources["best"].read(record)
    for name, sample in found.items():
        assert sample.image.shape == (512, 512, 1) and sample.image.dtype == np.uint8
        assert labels(sample).shape == (512, 512) and 9 <= labels(sample).max() <= 18
        if name in gold:
            left_out = {"01/t067": 15, "02/t042": 1, "02/t061": 1}.get(name, 0)
            assert labels(sample).max() == labels(gold[name]).max() + left_out
    module = DICHeLaDataModule(str(real_data / "dic_hela"))
    split = module.splitter([sample for sample in gold.values()])
    assert [len(getattr(split, part)) for part in PARTS] == [7, 1, 9]
