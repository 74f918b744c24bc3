"""Read once, then at memory speed; a build that was interrupted is as if it had never begun."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from segmentation.data import cache
from segmentation.data.cache import SampleStore, cache_folder, decoded, prepared
from segmentation.data.sample import Record, Sample
from segmentation.errors import UserError
from tests.errors import refuses


@dataclass
class Numbers:
    """A dataset without files that counts its reads, in memory and in a file."""

    count: int = 5
    stamps: dict[str, str] = field(default_factory=dict)
    name: str = "numbers"
    version: int = 1
    log: Path | None = None
    pause: float = 0.0
    reads: int = 0

    def index(self) -> Sequence[Record]:
        names = [f"n{i}" for i in range(self.count)]
        return [Record(n, f"{n}.png", (), self.stamps.get(n, "1"), group=n[-1]) for n in names]

    def read(self, record: Record) -> Sample:
        self.reads += 1
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{record.id}\n")
        time.sleep(self.pause)
        number = int(record.id[1:])
        image = np.full((3 + number, 5, 1 + number % 2 * 2), number * 300, np.uint16)
        labels = None if number == 3 else np.full((3 + number, 5), number * 200, np.int32)
        return Sample(record.id, image, labels, record.group, "kind", "train")


def stores(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    source = Numbers()
    store = decoded(source, tmp_path)
    assert len(store) == 5
    for record, sample in zip(source.index(), store, strict=True):
        wanted = source.read(record)
        assert replace(sample, image=0, labels=0) == replace(wanted, image=0, labels=0)  # type: ignore[arg-type]
        assert sample.image.dtype == np.uint16
        np.testing.assert_array_equal(sample.image, wanted.image)
        if wanted.labels is None:
            assert sample.labels is None
        else:
            assert sample.labels is not None
            np.testing.assert_array_equal(sample.labels, wanted.labels)
    labels = store[1].labels, store[4].labels
    assert [x.dtype for x in labels if x is not None] == [np.uint8, np.uint16]


def test_second_open_decodes_nothing(tmp_path: Path) -> None:
    source = Numbers()
    decoded(source, tmp_path)
    assert source.reads == 5
    decoded(source, tmp_path)
    decoded(Numbers(), tmp_path)
    assert source.reads == 5 and len(stores(tmp_path)) == 1


def test_changes_rebuild(tmp_path: Path) -> None:
    decoded(Numbers(), tmp_path)
    for changed in (Numbers(stamps={"n2": "2"}), Numbers(version=2), Numbers(count=4)):
        decoded(changed, tmp_path)
        assert changed.reads == changed.count
    assert len(stores(tmp_path)) == 4


def test_prepared_depends_on_its_settings_and_on_the_data(tmp_path: Path) -> None:
    calls = []

    def halve(sample: Sample) -> Sample:
        calls.append(sample.id)
        return replace(sample, image=(sample.image // 2).astype(np.uint8))

    raw = decoded(Numbers(), tmp_path)
    store = prepared(raw, halve, "halve", tmp_path)
    np.testing.assert_array_equal(store[1].image, raw[1].image // 2)
    assert store[1].image.dtype == np.uint8
    prepared(raw, halve, "halve", tmp_path)
    assert len(calls) == 5
    prepared(raw, halve, "otherwise", tmp_path)
    prepared(decoded(Numbers(version=2), tmp_path), halve, "halve", tmp_path)
    assert len(calls) == 15
    assert store.folder.name.startswith("numbers-prepared-")


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    class Twins(Numbers):
        def index(self) -> Sequence[Record]:
            return [Record("same", f"{i}.png", (), "") for i in range(2)]

    refuses(r"1\.png: the id same is taken by 0\.png; rename one", decoded, Twins(), tmp_path)


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert decoded(Numbers()).folder.parent == tmp_path / "mine"
    monkeypatch.delenv("SEGMENTATION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "segmentation"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "segmentation"


def test_store_pickles_small_and_reads_on(tmp_path: Path) -> None:
    store = decoded(Numbers(count=50), tmp_path)
    data = pickle.dumps(store)
    assert len(data) < 500
    copy: SampleStore = pickle.loads(data)
    np.testing.assert_array_equal(copy[49].image, store[49].image)


def test_arrays_are_read_only(tmp_path: Path) -> None:
    import torch  # not above: processes that this file starts need not wait for it

    sample = decoded(Numbers(), tmp_path)[2]
    for array in (sample.image, sample.labels):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.from_numpy(array.astype(np.int32))


def start(code: str, **names: object) -> subprocess.Popen[str]:
    """Run code in another process that knows ``Numbers``, ``decoded`` and these names."""
    head = f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    head += "from test_cache import *\n"
    head += "".join(f"{name} = {value!r}\n" for name, value in names.items())
    command = [sys.executable, "-c", head + code]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root)


def test_two_processes_build_once(tmp_path: Path) -> None:
    code = """
Path(ready).touch()
while not Path(go).exists():
    time.sleep(0.005)
decoded(Numbers(log=Path(log), pause=0.05), Path(folder), workers=1)
"""
    names = {
        "go": str(tmp_path / "go"),
        "log": str(tmp_path / "log"),
        "folder": str(tmp_path / "c"),
    }
    both = [start(code, ready=str(tmp_path / f"ready-{i}"), **names) for i in range(2)]
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert all(process.poll() is None for process in both)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for process in both:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    assert len((tmp_path / "log").read_text().split()) == 5
    assert len(stores(tmp_path / "c")) == 1


SLOW = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

class Slow(Numbers):
    def read(self, record):
        if record.id == "n3":
            Path(flag).touch()
            time.sleep(sleep)
        return super().read(record)

decoded(Slow(), Path(folder), workers=1)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_build(tmp_path: Path, kind: signal.Signals) -> None:
    flag, folder = tmp_path / "flag", tmp_path / "cache"
    # An interrupt waits for the file that is being decoded; a kill does not.
    sleep = 60 if kind == signal.SIGKILL else 1
    process = start(SLOW, flag=str(flag), folder=str(folder), sleep=sleep)
    while not flag.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(kind)
    process.communicate(timeout=30)
    assert process.returncode != 0
    left = [name for name in stores(folder) if not name.endswith(".part")]
    assert left == [], "a store that looks whole"
    if kind == signal.SIGINT:
        assert stores(folder) == []
    source = Numbers()
    assert len(decoded(source, folder)) == 5 and source.reads == 5
    assert [re.sub("[0-9a-f]{16}", "KEY", name) for name in stores(folder)] == ["numbers-KEY"]


def test_a_fault_leaves_nothing(tmp_path: Path) -> None:
    class Faulty(Numbers):
        def read(self, record: Record) -> Sample:
            if record.id == "n3":
                raise UserError("n3.png: broken; copy it again")
            return super().read(record)

    refuses(r"^n3\.png: broken; copy it again$", decoded, Faulty(), tmp_path)
    assert stores(tmp_path) == []


@pytest.mark.parametrize("name", ["data.bin", "index.json"])
@pytest.mark.parametrize("content", [None, "", "short", '[{"id": 1}]'])
def test_a_damaged_store_is_built_again(tmp_path: Path, name: str, content: str | None) -> None:
    damaged = decoded(Numbers(), tmp_path).folder / name
    damaged.unlink() if content is None else damaged.write_text(content)
    source = Numbers()
    assert decoded(source, tmp_path)[4].image.max() == 1200
    assert source.reads == 5 and len(stores(tmp_path)) == 1


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/dev/null/x")):
        with pytest.raises(UserError) as caught:
            decoded(Numbers(), folder)
        text = str(caught.value)
        assert re.fullmatch(
            rf"{re.escape(str(folder))}/numbers-\w+: the cache cannot be written \(.+\); set "
            "SEGMENTATION_CACHE to a folder with write access and free space",
            text,
        )


def age(path: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))


def test_old_stores_are_removed_when_another_is_built(tmp_path: Path) -> None:
    opened, old, recent = (decoded(Numbers(version=i), tmp_path).folder for i in (1, 2, 3))
    leftover = tmp_path / ".gone-0123456789abcdef.part"
    foreign, other = tmp_path / "thesis-0123456789abcdef", tmp_path / "photos"
    for path in (leftover, foreign, other):
        path.mkdir()
    (leftover / "data.bin").touch()
    (foreign / "chapter.tex").touch()
    for path in (opened, old, leftover, foreign, other):
        age(path, cache.KEEP_DAYS + 1)
    age(recent, cache.KEEP_DAYS - 1)
    decoded(Numbers(version=1), tmp_path)  # opening it makes it young again
    assert {opened.name, old.name, leftover.name} <= set(stores(tmp_path))  # nothing was built
    mapped = SampleStore(old)
    new = decoded(Numbers(version=4), tmp_path).folder
    assert stores(tmp_path) == sorted(p.name for p in (opened, recent, new, foreign, other))
    assert mapped[4].image.max() == 1200  # who has it mapped keeps it


def test_users_of_one_folder_do_not_wait_for_each_others_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock file belongs to who made it: another user cannot even open it."""
    monkeypatch.setattr(cache, "_user", lambda: 1)
    decoded(Numbers(), tmp_path)
    (lock,) = tmp_path.glob(".*.lock")
    monkeypatch.setattr(cache, "_user", lambda: 2)
    with FileLock(lock):
        assert len(decoded(Numbers(count=4), tmp_path)) == 4
    assert decoded(Numbers(), tmp_path).folder == decoded(Numbers(), tmp_path).folder
    assert len(stores(tmp_path)) == 2


def test_of_two_users_that_build_the_same_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Numbers):
        def read(self, record: Record) -> Sample:
            if record.id == "n4":  # the last one: now somebody else is done
                monkeypatch.setattr(cache, "_user", lambda: 1)
                decoded(Numbers(), tmp_path)
                monkeypatch.setattr(cache, "_user", lambda: 2)
            return super().read(record)

    built = []
    monkeypatch.setattr(Path, "replace", lambda self, to: built.append(self) or self.rename(to))
    monkeypatch.setattr(cache, "_user", lambda: 2)
    store = decoded(Slow(), tmp_path)
    assert [path.name.split(".")[2] for path in built] == ["1"]
    assert stores(tmp_path) == [store.folder.name]
    assert store[4].image.shape == (7, 5, 1)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 4), ("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_cores_under_a_quota(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cache.usable_cores(tmp_path / "cpu.max") == cores
