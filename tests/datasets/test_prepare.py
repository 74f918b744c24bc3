"""From archives and servers to a dataset that its own reader accepts, or to nothing at all."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests
from filelock import FileLock

from segmentation.__main__ import main
from segmentation.data.cache import decoded
from segmentation.data.sample import Record, Sample
from segmentation.datasets import prepare as module
from segmentation.datasets.bbbc039 import BBBC039
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.official import DATASETS, Official, Piece
from segmentation.datasets.prepare import facts, prepare, shortages
from segmentation.errors import UserError
from segmentation.io.images import write_image
from tests.datasets.server import Answer, serving
from tests.helpers import refusal

FILES = ("stage1_solution.csv", "stage1_test.zip", "stage1_train.zip")
TAG = {"ETag": '"one"'}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setattr(requests, "get", refuse)


def zipped(folder: Path, archive: Path, prefix: str) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{prefix}{path.relative_to(folder).as_posix()}")
    return archive


def square(path: Path, dtype: type = np.uint8, value: int = 255, channels: int = 1) -> None:
    pixels = np.zeros((32, 40, channels), dtype)
    pixels[4:9, 5:20] = value
    write_image(path, pixels if channels == 3 else pixels[..., 0])


def plan(files: list[Path]) -> dict[str, list[Answer]]:
    return {path.name: [Answer(path.read_bytes(), headers=TAG)] for path in files}


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def whole(root: Path) -> bool:
    """Whether the reader finds all images of the synthetic DSB2018, all with truth."""
    source = DSB2018(str(root))
    samples = [source.read(record) for record in source.index()]
    return len(samples) == 6 and all(sample.labels is not None for sample in samples)


def test_from_a_server(
    dsb_files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "with space" / "dsb"
    with serving(
        {f"mirror/{name}": answers for name, answers in plan(dsb_files).items()}
    ) as server:
        arguments = [
            "prepare",
            "dsb2018",
            "--root",
            str(root),
            "--url-base",
            f"{server.url}/mirror/",
        ]
        assert main(arguments) == 0
        assert [path for path, _ in server.seen] == [f"mirror/{name}" for name in FILES]
        out, err = capsys.readouterr()
        assert whole(root)
        assert visible(root) == {"stage1_train", "stage1_test", "stage1_solution.csv", "archives"}
        assert "images    6\n" in out and "subsets   train (4), test (2)\n" in out
        assert "sizes     32×40 (6) (H×W)" in out and "values    uint8 " in out
        assert out.splitlines()[-1] == (
            f"next: segmentation fit --config configs/dsb2018/unet_small.yaml --data.root '{root}'"
        )
        assert "warning: 4 of the official 670 images of the subset train are here\n" in err
        # Again: nothing is fetched, unpacked or decoded.
        server.seen.clear()
        before = {path: path.stat().st_mtime_ns for path in (root / "stage1_train").rglob("*")}
        for target in (
            "segmentation.datasets.dsb2018.DSB2018.read",
            "segmentation.datasets.unpack._extract",
        ):
            monkeypatch.setattr(target, None)
        assert main(arguments) == 0
        assert not server.seen
        assert {path: path.stat().st_mtime_ns for path in before} == before
        again = capsys.readouterr().out
        assert "stage1_train: is there, as in stage1_train.zip" in again
        assert again.splitlines()[-10:] == out.splitlines()[-10:]
        # The archives are not needed any more.
        for path in (root / "archives").iterdir():
            path.unlink()
        assert main(arguments) == 0
        assert not server.seen


def test_from_archives_without_a_network(
    dsb_files: list[Path], tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("dsb2018", tmp_path / "all", dsb_files)
    assert whole(tmp_path / "all") and "archives" not in visible(tmp_path / "all")
    assert all(path.exists() for path in dsb_files)
    capsys.readouterr()
    prepare("dsb2018", tmp_path / "train", dsb_files[2:])
    assert visible(tmp_path / "train") == {"stage1_train"}
    warnings = capsys.readouterr().err
    for name in FILES[:2]:
        assert f"goes on without {name}, which --archive does not name" in warnings
    prepare("dsb2018", tmp_path / "train", dsb_files)  # what was missing is added
    assert whole(tmp_path / "train")
    (tmp_path / "beside").mkdir()
    for path in dsb_files:
        (tmp_path / "beside" / path.name).write_bytes(path.read_bytes())
    prepare("dsb2018", tmp_path / "beside")  # a folder with the archives themselves
    assert whole(tmp_path / "beside")


def test_bad_arguments(
    dsb_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other.zip").touch()
    (tmp_path / "stage1_train.zip").touch()
    train, other = dsb_files[2], tmp_path / "stage1_train.zip"
    for arguments, says in (
        ([], "the following arguments are required: dataset, --root; see segmentation prepare --h"),
        (["dsb2018"], "required: --root"),
        (["dsb", "--root", "x"], "invalid choice: 'dsb' "),
        (["dsb2018", "--root", "x", "--archive"], "expected at least one argument"),
        (["dsb2018", "--root", "x", "--archive", tmp_path / "no.zip"], "no.zip: does not exist; "),
        (["dsb2018", "--root", "x", "--archive", tmp_path], "is not a file; --archive takes the"),
        (
            ["dsb2018", "--root", "x", "--archive", tmp_path / "other.zip"],
            "other.zip: dsb2018 has no such file; rename it if it is one of stage1_solution.csv, ",
        ),
        (["dsb2018", "--root", "x", "--archive", train, "--archive", other], "the same part of"),
        (
            ["dsb2018", "--root", tmp_path / "r", "--archive", *dsb_files[:2]],
            "stage1_train.zip: not among what --archive names; give it too, or leave --archive",
        ),
        (["dsb2018", "--root", tmp_path / "file"], "file: cannot be written (File exists); choose"),
        (["dsb2018", "--root", tmp_path / "file" / "x"], "cannot be written (Not a directory)"),
        (
            ["dsb2018", "--root", tmp_path / "r", "--archive", other],
            "stage1_train.zip: cannot be unpacked (File is not a zip file); remove it and downl",
        ),
        (
            ["dsb2018", "--root", tmp_path / "r", "--url-base", "x.org"],
            "x.org/stage1_solution.csv: cannot be fetched (Invalid URL",
        ),
    ):
        assert says in refusal(capsys, ["prepare", *map(str, arguments)]), says
    assert not Path("x").exists() and visible(tmp_path / "r") <= {"archives"}


def test_what_needs_a_login(
    tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "u n"
    line = refusal(capsys, ["prepare", "ultrasound_nerve", "--root", str(root)])
    assert "`kaggle competitions download -c ultrasound-nerve-segmentation`" in line
    again = f"segmentation prepare ultrasound_nerve --root '{root}' --archive "
    assert f"`{again}ultrasound-nerve-segmentation.zip`" in line and "--archive train.zip" in line
    data = tmp_path / "data"
    for name in ("1_1", "1_1_mask", "2_7", "2_7_mask"):
        square(data / "train" / f"{name}.tif")
    square(data / "test" / "1.tif")
    bundle = zipped(data, tmp_path / "ultrasound-nerve-segmentation.zip", "")
    prepare("ultrasound_nerve", root, [bundle])
    assert visible(root) == {"train"} and len(visible(root / "train")) == 4
    out, err = capsys.readouterr()
    assert "images    2\n" in out and "groups    1 (1), 2 (1)\n" in out
    assert "warning: 2 of the official 5,635 images are here" in err
    train = zipped(data / "train", root.parent / "later" / "train.zip", "train/")
    prepare("ultrasound_nerve", train.parent)  # put there by hand
    assert visible(train.parent / "train") == visible(root / "train")
    refused = refusal(
        capsys, ["prepare", "ultrasound_nerve", "--root", "x", "--archive", str(bundle), str(train)]
    )
    assert "the same part" in refused


def bbbc039_archives(folder: Path) -> list[Path]:
    data = folder / "made"
    for number, subset in enumerate(("training", "validation", "test")):
        square(data / "images" / f"{number}.tif", np.uint16, 4000)
        square(data / "masks" / f"{number}.png", channels=3)
        (data / "metadata").mkdir(exist_ok=True)
        (data / "metadata" / f"{subset}.txt").write_text(f"{number}.png\n")
    names = ("images", "masks", "metadata")
    return [zipped(data / name, folder / f"{name}.zip", f"{name}/") for name in names]


def test_checksums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = bbbc039_archives(tmp_path)
    prepare("bbbc039", tmp_path / "local", archives)  # said, but a user's file is a user's choice
    err = capsys.readouterr().err
    assert err.count("not the official file, whose SHA-256 is") == 3
    assert len(BBBC039(str(tmp_path / "local")).index()) == 3
    with serving(plan(archives)) as server:
        with pytest.raises(UserError, match=r"its SHA-256 is .* and should be .*; it was removed"):
            prepare("bbbc039", tmp_path / "served", url_base=server.url)
        assert not visible(tmp_path / "served" / "archives")
        pieces = tuple(Piece(path.name, module.sha256_of(path)) for path in archives)
        known = Official(DATASETS["bbbc039"].source, pieces, "x.yaml", {"val": 1, "test": 2})
        monkeypatch.setitem(DATASETS, "bbbc039", known)
        capsys.readouterr()
        prepare("bbbc039", tmp_path / "served", url_base=server.url)
    out, err = capsys.readouterr()
    assert out.count("SHA-256 is the official one") == 3 and "uint16 0–4000" in out
    assert err == "warning: 1 of the official 2 images of the subset test are here\n"


def test_a_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "made"
    for sequence in ("01", "02"):
        for frame in ("000", "001"):
            square(data / sequence / f"t{frame}.tif")
            square(data / f"{sequence}_ST" / "SEG" / f"man_seg{frame}.tif", np.uint16, 7)
    for dataset, name in (("dic_hela", "DIC-C2DH-HeLa"), ("phc_u373", "PhC-C2DH-U373")):
        archive = zipped(data, tmp_path / f"{name}.zip", f"{name}/")
        prepare(dataset, tmp_path / dataset, [archive])
        assert (tmp_path / dataset / name / "02_ST" / "SEG" / "man_seg001.tif").is_file()
        assert "groups    01 (2), 02 (2)" in capsys.readouterr().out


def test_changed_files_are_told(
    dsb_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("dsb2018", tmp_path, dsb_files)
    masks = sorted((tmp_path / "stage1_train").glob("*/masks/*.png"))
    masks[0].unlink()
    masks[-1].write_bytes(masks[-2].read_bytes())
    capsys.readouterr()
    prepare("dsb2018", tmp_path, dsb_files)
    err = capsys.readouterr().err
    assert (
        "warning: " in err and " and 1 more: missing or not as in stage1_train.zip; remove" in err
    )
    assert not masks[0].exists()  # a person may have had reasons


def test_the_reader_has_the_last_word(
    dsb_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tmp_path / "stage1_train.zip"
    train.write_bytes(dsb_files[2].read_bytes())
    with zipfile.ZipFile(train, "a") as file:
        file.writestr("broken/images/broken.png", b"\x89PNG\r\n\x1a\n")
        file.writestr("broken/masks/broken.png", b"")
    line = refusal(capsys, ["prepare", "dsb2018", "--root", str(tmp_path), "--archive", str(train)])
    assert "broken.png: the PNG is truncated" in line


def test_an_empty_folder_is_no_dataset(dsb_files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "stage1_train").mkdir()
    prepare("dsb2018", tmp_path, dsb_files)
    assert whole(tmp_path)


def test_only_one_at_a_time(dsb_files: list[Path], tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".prepare.lock"),
        pytest.raises(UserError, match="is being prepared by another process; wait for it"),
    ):
        prepare("dsb2018", tmp_path, dsb_files)


@pytest.mark.parametrize("broken", FILES)
def test_what_fails_on_the_way_leaves_nothing(
    dsb_files: list[Path], tmp_path: Path, broken: str
) -> None:
    """Also when the last of several archives cannot be had or unpacked."""
    answers = plan(dsb_files)
    answers[broken] = [Answer(status=404)]
    with serving(answers) as server, pytest.raises(UserError, match="404"):
        prepare("dsb2018", tmp_path, url_base=server.url)
    assert visible(tmp_path) <= {"archives"}
    if broken.endswith(".zip"):
        answers[broken] = [Answer(b"PK", headers=TAG)]
        with serving(answers) as server, pytest.raises(UserError, match="no zip archive"):
            prepare("dsb2018", tmp_path, url_base=server.url)
        assert visible(tmp_path) <= {"archives"}
    with serving(plan(dsb_files)) as server:
        prepare("dsb2018", tmp_path, url_base=server.url)
        assert len(server.seen) == len(FILES) - FILES.index(broken)  # the others were kept
    assert whole(tmp_path)


class Made:
    """Five samples: sizes and counts that are known."""

    name, version = "made", 1

    def index(self) -> list[Record]:
        return [Record(str(i), "", (), "1", "g" * (i > 2), "train") for i in range(5)]

    def read(self, record: Record) -> Sample:
        i = int(record.id)
        image = np.full((4 + i % 2, 6, 3 if i == 4 else 1), 10 * i + 1, np.uint16)
        labels = None if i == 1 else np.minimum(np.arange(24).reshape(4, 6), i).astype(np.int32)
        if labels is not None and i % 2:
            labels = np.pad(labels, ((0, 1), (0, 0)))
        return Sample(record.id, image, labels, record.group, "k", record.subset)


def test_facts(tmp_path: Path) -> None:
    store = decoded(Made(), tmp_path)
    assert facts(store) == {
        "images": "5",
        "subsets": "train (5)",
        "groups": "g (2)",
        "kinds": "k (5)",
        "sizes": "4×6 (3), 5×6 (2) (H×W)",
        "channels": "1 (4), 3 (1)",
        "values": "uint16 1–41",
        "objects": "9; 0 / 2.5 / 4 an image (min / median / max)",
        "empty": "1 images without objects",
        "no truth": "1 images",
    }
    expected = {"train": 5, "test": 1}
    official = Official("", (), "", expected, objects={"train": 1000, "": 9})
    assert shortages(store, official) == [
        "0 of the official 1 images of the subset test are here",
        "9 of the official 1,000 objects of the subset train are here",
    ]


@pytest.mark.parametrize(
    ("name", "images"), [("bbbc039", 60), ("ultrasound_nerve", 96), ("dic_hela", 168)]
)
def test_real_archives(real_data: Path, tmp_path: Path, name: str, images: int) -> None:
    archives = sorted((real_data / name).glob("*.zip"))
    if not archives:
        pytest.skip(f"no {name} among the real data")
    prepare(name, tmp_path, archives)
    assert len(decoded(DATASETS[name].open(tmp_path))) == images
