"""From archives and servers to a data set that its own reader accepts, or to nothing at all."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import requests
from filelock import FileLock

from segmentation import datasets
from segmentation.data.cache import decoded
from segmentation.data.sample import Record, Sample
from segmentation.datasets import download as module
from segmentation.datasets.download import DATASETS, facts, prepare, shortages
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.synthetic import write_bbbc039, write_dsb2018, write_ultrasound_nerve
from segmentation.errors import UserError
from segmentation.io.files import sha256_of
from tests.datasets.server import Answer, serving
from tests.helpers import CONFIGS, zip_folder

FILES = ("stage1_solution.csv", "stage1_test.zip", "stage1_train.zip")
SIZE = (32, 40)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of a synthetic DSB2018: 4 training and 2 test images. Do not change them."""
    root = tmp_path_factory.mktemp("archives")
    write_dsb2018(root, images=4, size=SIZE, test_images=2)
    return [root / FILES[0], *(packed(root / name.removesuffix(".zip")) for name in FILES[1:])]


def packed(folder: Path, top: str = "") -> Path:
    return zip_folder(folder, folder.with_name(f"{folder.name}.zip"), top)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "get", None)


def plan(files: list[Path]) -> dict[str, list[Answer]]:
    return {path.name: [Answer(path.read_bytes(), headers={"ETag": '"one"'})] for path in files}


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def whole(root: Path) -> bool:
    """Whether the reader finds all images of the synthetic DSB2018, all with truth."""
    samples = [*DSB2018(str(root))]
    return len(samples) == 6 and all(sample.labels is not None for sample in samples)


def refusal(dataset: Any, root: Path, *archives: Path, url: str = "") -> str:
    with pytest.raises(UserError) as caught:
        prepare(dataset, root, archives, url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", DATASETS)
def test_the_table(name: Any, tmp_path: Path) -> None:
    official = DATASETS[name]
    assert (CONFIGS / f"{official.config}.yaml").is_file()
    assert getattr(datasets, official.reader)(str(tmp_path)).version >= 1
    assert name in get_args(get_type_hints(prepare)["dataset"])
    assert official.url.startswith("https://") != bool(official.login)
    assert {*official.optional} < {*official.files}
    assert [*official.files][-1] not in official.optional
    assert all(sha == "" or len(bytes.fromhex(sha)) == 32 for sha in official.files.values())


def test_from_a_server(
    archives: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "with space" / "dsb"
    answers = {f"mirror/{name}": answer for name, answer in plan(archives).items()}
    with serving(answers) as server:
        prepare("dsb2018", root, url_base=f"{server.url}/mirror/")
        assert [path for path, _ in server.seen] == [f"mirror/{name}" for name in FILES]
        out, err = capsys.readouterr()
        assert whole(root)
        assert visible(root) == {"stage1_train", "stage1_test", "stage1_solution.csv", "archives"}
        assert "images    6\n" in out and "subsets   train (4), test (2)\n" in out
        assert "sizes     32×40 (6) (H×W)" in out and "values    uint8 " in out
        assert out.splitlines()[-1].endswith(f"--data.root '{root}'")
        assert "warning: 4 of the official 670 images of the subset train are here\n" in err
        # Again: nothing is fetched, unpacked or decoded.
        server.seen.clear()
        before = {path: path.stat().st_mtime_ns for path in (root / "stage1_train").rglob("*")}
        monkeypatch.setattr(DSB2018, "read", None)
        monkeypatch.setattr(module, "unpack", None)
        prepare("dsb2018", root, url_base=f"{server.url}/mirror/")
        assert not server.seen
        assert {path: path.stat().st_mtime_ns for path in before} == before
        again = capsys.readouterr().out
        assert "stage1_train: is there, as in stage1_train.zip" in again
        assert again.splitlines()[-10:] == out.splitlines()[-10:]
        for path in (root / "archives").iterdir():  # they are not needed any more
            path.unlink()
        prepare("dsb2018", root)
        assert not server.seen


def test_from_archives_without_a_network(
    archives: list[Path], tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("dsb2018", tmp_path / "train", archives[2:])
    assert visible(tmp_path / "train") == {"stage1_train"}
    warnings = capsys.readouterr().err
    for name in FILES[:2]:
        assert f"goes on without {name}, which --archive does not name" in warnings
    prepare("dsb2018", tmp_path / "train", archives)  # what was missing is added
    assert whole(tmp_path / "train") and "archives" not in visible(tmp_path / "train")
    assert all(path.exists() for path in archives)
    (tmp_path / "beside" / "stage1_train").mkdir(parents=True)  # an empty folder is no data set
    for path in archives:
        (tmp_path / "beside" / path.name).write_bytes(path.read_bytes())
    prepare("dsb2018", tmp_path / "beside")  # a folder with the archives themselves
    assert whole(tmp_path / "beside")


def test_bad_arguments(archives: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other.zip").touch()
    (tmp_path / "stage1_train.zip").touch()
    root, train, other = tmp_path / "root", archives[2], tmp_path / "stage1_train.zip"
    for given, says in (
        ([tmp_path / "no.zip"], "no.zip: does not exist; --archive takes the files of dsb2018"),
        ([tmp_path], "is not a file; --archive takes the"),
        ([tmp_path / "other.zip"], "other.zip: no file of dsb2018, or the same part as another"),
        ([train, other], "the same part as another; give one of each of stage1_solution.csv, "),
        (archives[:2], "stage1_train.zip: not among what --archive names; give it too, or leave"),
        ([other], "cannot be unpacked (File is not a zip file); remove it and download it again"),
    ):
        assert says in refusal("dsb2018", root, *given), says
    assert "cannot be written (File exists); choose" in refusal("dsb2018", tmp_path / "file")
    assert "cannot be written (Not a dir" in refusal("dsb2018", tmp_path / "file" / "x")
    assert "x.org/stage1_solution.csv: Invalid URL" in refusal("dsb2018", root, url="x.org")
    with FileLock(root / ".prepare.lock"):
        assert "is being prepared by another process; wait" in refusal("dsb2018", root, *archives)
    assert visible(root) <= {"archives"}


def test_what_needs_a_login(
    tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "u n"
    line = refusal("ultrasound_nerve", root)
    assert "`kaggle competitions download -c ultrasound-nerve-segmentation`" in line
    again = f"segmentation prepare ultrasound_nerve --root '{root}' --archive "
    assert f"`{again}ultrasound-nerve-segmentation.zip`" in line and "--archive train.zip" in line
    made = write_ultrasound_nerve(tmp_path / "made", 4, SIZE, subjects=2)
    (made / "test").mkdir()
    (made / "test" / "1.tif").touch()
    bundle = zip_folder(made, tmp_path / "ultrasound-nerve-segmentation.zip")
    train = zip_folder(made / "train", tmp_path / "later" / "train.zip", "train/")
    prepare("ultrasound_nerve", root, [bundle])
    assert visible(root) == {"train"} and len(visible(root / "train")) == 8
    out, err = capsys.readouterr()
    assert "images    4\n" in out and "groups    1 (2), 2 (2)\n" in out
    assert "warning: 4 of the official 5,635 images are here" in err
    prepare("ultrasound_nerve", train.parent)  # put there by hand
    assert visible(train.parent / "train") == visible(root / "train")
    assert "the same part" in refusal("ultrasound_nerve", tmp_path / "x", bundle, train)


def test_checksums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_bbbc039(tmp_path / "made", 4, SIZE)
    archives = [packed(path, f"{path.name}/") for path in sorted(made.iterdir())]
    prepare("bbbc039", tmp_path / "local", archives)  # said, but a user's file is a user's choice
    assert capsys.readouterr().err.count("not the official file, whose SHA-256 is") == 3
    root = tmp_path / "served"
    with serving(plan(archives)) as server:
        assert "does not match the known hash" in refusal("bbbc039", root, url=server.url)
        assert not visible(root / "archives")
        hashes = {path.name: sha256_of(path) for path in archives}
        known = replace(DATASETS["bbbc039"], files=hashes, images={"val": 1, "test": 2})
        monkeypatch.setitem(DATASETS, "bbbc039", known)
        capsys.readouterr()
        prepare("bbbc039", root, url_base=server.url)
    out, err = capsys.readouterr()
    assert out.count("SHA-256 is the official one") == 3 and "uint16 " in out
    assert err == "warning: 1 of the official 2 images of the subset test are here\n"


def test_changed_files_are_told(
    archives: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("dsb2018", tmp_path, archives)
    masks = sorted((tmp_path / "stage1_train").glob("*/masks/*.png"))
    masks[0].unlink()
    masks[-1].write_bytes(masks[-2].read_bytes())
    capsys.readouterr()
    prepare("dsb2018", tmp_path, archives)
    says = " and 1 more: missing or not as in stage1_train.zip; remove"
    assert says in capsys.readouterr().err
    assert not masks[0].exists()  # a person may have had reasons


@pytest.mark.parametrize("broken", FILES)
def test_what_fails_on_the_way_leaves_nothing(
    archives: list[Path], tmp_path: Path, broken: str
) -> None:
    """Also when the last of several archives cannot be had or unpacked."""
    faults = {"404 Client Error": Answer(status=404), "gave a web page": Answer(b"<html>")}
    for says, answer in faults.items():
        with serving({**plan(archives), broken: [answer]}) as server:
            assert says in refusal("dsb2018", tmp_path, url=server.url)
        assert visible(tmp_path) <= {"archives"}
    with serving(plan(archives)) as server:
        prepare("dsb2018", tmp_path, url_base=server.url)
        assert len(server.seen) == len(FILES) - FILES.index(broken)  # the others were kept
    assert whole(tmp_path)


@pytest.mark.parametrize("step", ["unpack", "sha256_of", "decoded"])
def test_ctrl_c(
    archives: list[Path], tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, calls = getattr(module, step), iter((1,))

    def interrupted(*args: object) -> object:
        """At the second call, or where there is but one."""
        if next(calls, None) is None or step == "decoded":
            raise KeyboardInterrupt
        return function(*args)

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("dsb2018", tmp_path, archives)
    assert visible(tmp_path) == ({"stage1_train", "stage1_test", FILES[0]} & visible(tmp_path))
    assert bool(visible(tmp_path)) == (step == "decoded") and not list(tmp_path.glob(".*.part"))
    monkeypatch.undo()
    prepare("dsb2018", tmp_path, archives)
    assert whole(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from segmentation.datasets import download

roots, archives = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
download.decoded = lambda *_: sys.exit()  # by then the folders are there
sys.stdout = open(os.devnull, "w")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")

def run(number):
    '''Kill a process before its nth change to the disk; return whether it came to that.'''
    count = 0
    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        download.prepare("dsb2018", roots / f"{number:03}", archives)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

try:  # once in peace: what is imported late is imported once
    download.prepare("dsb2018", roots / "000", archives)
except SystemExit:
    number = 1
while run(number):
    number += 3
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills(archives: list[Path], tmp_path: Path) -> None:
    """Killed at any moment it leaves no training data, or all; then it can be run again."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), *map(str, archives)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *roots, last = sorted(tmp_path.iterdir())
    assert whole(first) and whole(last) and len(roots) > 10
    assert sum(any(root.glob(".*.part")) for root in roots) > 8  # or nothing was interrupted
    for root in roots:
        subsets: set[str] = set()
        with contextlib.suppress(UserError):
            subsets = {record.subset for record in DSB2018(str(root)).index()}
        assert "train" not in subsets or whole(root)
    for root in roots[::5]:
        prepare("dsb2018", root, archives)
        assert whole(root) and not list(root.glob(".*.part"))


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
    counts = {"images": {"train": 5, "test": 1}, "objects": {"train": 1000, "": 9}}
    assert shortages(store, replace(DATASETS["dsb2018"], **counts)) == [  # type: ignore[arg-type]
        "0 of the official 1 images of the subset test are here",
        "9 of the official 1,000 objects of the subset train are here",
    ]


@pytest.mark.parametrize(
    ("name", "images"), [("bbbc039", 60), ("ultrasound_nerve", 96), ("dic_hela", 168)]
)
def test_real_archives(real_data: Path, tmp_path: Path, name: Any, images: int) -> None:
    archives = sorted((real_data / name).glob("*.zip"))
    if not archives:
        pytest.skip(f"no {name} among the real data")
    prepare(name, tmp_path, archives)
    assert len(decoded(getattr(datasets, DATASETS[name].reader)(str(tmp_path)))) == images
