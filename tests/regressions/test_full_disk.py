"""Disks that are full or gone, connections that break: one line, and the same command goes on."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from segmentation.datasets.http import download
from tests.datasets.server import Answer, serving
from tests.regressions.conftest import Result, write_pairs

resource = pytest.importorskip("resource", reason="Windows has no limit of the size of files")
Limit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def room() -> Limit:
    """Within, no file can grow beyond so many bytes, as on a disk that is full."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("size", [70_000, 120_000])
def test_a_training_ends_with_a_line_and_goes_on(
    size: int, fit: Callable[..., Result], room: Limit, tmp_path: Path
) -> None:
    options = ["--run.resume=true", "--run.save_every=0", "--data.sampling.length=4"]
    command = [write_pairs(tmp_path / "d", number=10), *options]
    assert fit(command[0], "--trainer.fast_dev_run=true").status == 0  # all is in the cache
    with room(size):
        result = fit(*command)
    assert result.status == 2 and "error: runs/t/" in result.line
    assert ".ckpt: cannot be written (File too large)" in result.line
    assert not [*Path("runs").rglob(".*.part")]
    assert fit(*command).status == 0
    assert len([*Path("runs/t").glob("*/scores.json")]) == 1


def test_a_cache_without_room(fit: Callable[..., Result], room: Limit, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "d")
    with room(50_000):
        result = fit(data)
    assert result.status == 2 and "the cache cannot be written (File too large)" in result.line
    assert not [*Path("cache").rglob("*.bin")] and not Path("runs").exists()


def test_a_prediction_goes_on(
    fit: Callable[..., Result], run: Callable[..., Result], room: Limit, tmp_path: Path
) -> None:
    data = write_pairs(tmp_path / "d")
    assert fit(data).status == 0
    (weights,) = Path("runs").rglob("best.ckpt")
    command = ["predict", f"--ckpt_path={weights}", f"--data.images={data / 'images'}", "--labels"]
    assert run(*command, "--output=whole").status == 0
    whole = files(Path("whole"))
    for size in (2_000, 3_000):
        out = Path(f"o{size}")
        with room(size):
            result = run(*command, f"--output={out}")
        assert result.status == 2 and result.text.count("error: ") == 1
        assert (
            f"error: {out}/" in result.line and "cannot be written (File too large)" in result.line
        )
        left = files(out)
        assert all(whole[name] == data for name, data in left.items() if name != "manifest.json")
        assert run(*command, f"--output={out}").status == 0 and files(out).keys() == whole.keys()


COMMANDS = {
    "evaluate": ["--truth=d/masks", "--prediction=d/masks"],
    "audit": ["folder", "--root=d"],
    "synthetic": ["--images=2"],
    "weights": ["--mask=d/masks/im0.png"],
    "init": ["folder"],
    "crossvalidate": ["--config=folder", "--folds=2"],
    "reproduce": ["b"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_cannot_be_written(
    name: str, run: Callable[..., Result], room: Limit, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "d", number=2)
    out = Path("o.png" if name == "weights" else "o")
    Path("file").touch()
    refused = [run(name, *COMMANDS[name], f"--output=file/{out}")]
    if name not in ("crossvalidate", "reproduce"):  # whose runs write
        with room(1_000 if name == "init" else 4_000):  # of what is printed, too
            refused.append(run(name, *COMMANDS[name], f"--output={out}"))
    for result in refused:
        assert result.status == 2 and result.text.count("error: ") == 1
        assert "cannot be " in result.line
    assert not out.is_file() and not files(out)
    if len(refused) > 1:
        assert run(name, *COMMANDS[name], f"--output={out}").status == 0


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_network_disk_that_is_lost(
    number: int,
    fit: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, original = write_pairs(tmp_path / "d"), Path.open

    def opened(path: Path, *more: Any, **rest: Any) -> Any:
        if path.name == "im3.png":
            raise OSError(number, os.strerror(number), path)
        return original(path, *more, **rest)

    monkeypatch.setattr(Path, "open", opened)
    result = fit(data)
    assert result.status == 2 and "im3.png: cannot be read" in result.line


@pytest.mark.parametrize("size", [65_536, 60_000, 5_000])
def test_a_download_that_always_breaks_goes_on(size: int, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    answer = Answer(data, headers={"ETag": '"a"'}, drop=size)
    with serving({"a.bin": [answer]}) as server:
        download(f"{server.url}/a.bin", tmp_path / "a.bin", pause=60)
    assert (tmp_path / "a.bin").read_bytes() == data
    assert len(server.seen) > 500_000 // size
