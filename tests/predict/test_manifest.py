"""Going on after whatever stopped a prediction, and refusing to mix two of them."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

import segmentation.predict.outputs as outputs_module
from segmentation.__main__ import main
from segmentation.io.images import read_image, read_mask
from tests.helpers import refusal
from tests.predict.predicting import ALL, altered, argv, rows


def predicted(monkeypatch: pytest.MonkeyPatch, stop_at: str = "") -> list[str]:
    """Which images are predicted from now on; one of them may be interrupted."""
    seen: list[str] = []
    original = outputs_module.FileWriter.write

    def watched(writer: Any, *rest: Any) -> Any:
        if writer.name == stop_at:
            raise KeyboardInterrupt
        seen.append(writer.name)
        return original(writer, *rest)

    monkeypatch.setattr(outputs_module.FileWriter, "write", watched)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_is_done_is_not_done_again(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", predicted(monkeypatch)
    command = argv(checkpoint, images, out, *ALL)
    assert main(command) == 0 and len(seen) == 3
    before = contents(out)
    seen.clear()
    assert main(command) == 0 and seen == []
    assert contents(out) == before
    (out / "rois/sub/image1.zip").unlink()  # a result that is missing
    shutil.copy(images / "image2.jpg", images / "new.jpg")  # a new image
    image = read_image(images / "image0.png")[:30]  # and a changed one
    assert cv2.imwrite(str(images / "image0.png"), image)
    assert main(command) == 0 and seen == ["image0.png", "new.jpg", "sub/image1.tif"]
    assert read_mask(out / "masks/image0.png").shape == (30, 53)
    assert len(rows(out / "images.csv")) == 4 and (out / "rois/sub/image1.zip").is_file()
    (images / "image2.jpg").write_bytes(b"")  # no longer an image: nor are there results
    assert main(command) == 1
    assert not (out / "masks/image2.png").exists() and len(rows(out / "images.csv")) == 3


def test_other_settings_are_refused(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(argv(checkpoint, images, out, "--labels")) == 0
    before = contents(out)

    other = altered(checkpoint, tmp_path / "x.ckpt", lambda c: c["preprocess"].update(gamma=0.5))
    shutil.copytree(images, tmp_path / "elsewhere")
    for command, said in (
        (argv(checkpoint, images, out, "--labels", "--tta"), "tta [false], not [true]"),
        (argv(checkpoint, images, out), 'outputs {"labels": "tiff"'),
        (argv(other, images, out, "--labels"), "checkpoint_sha256"),
        (argv(checkpoint, tmp_path / "elsewhere", out, "--labels"), "images "),
    ):
        line = refusal(capsys, command)
        assert said in line and line.endswith("use another --output") and str(out) in line
    assert contents(out) == before
    shutil.copy(checkpoint, tmp_path / "moved.ckpt")  # the same one under another name
    assert main(argv(tmp_path / "moved.ckpt", images, out, "--labels")) == 0
    (out / "manifest.json").write_text("hello")
    assert "is no manifest" in refusal(capsys, argv(checkpoint, images, out, "--labels"))


def test_an_interrupted_prediction_goes_on(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(argv(checkpoint, images, tmp_path / "whole", *ALL)) == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        seen = predicted(patch, stop_at="sub/image1.tif")
        assert main(argv(checkpoint, images, out, *ALL)) == 130
        assert seen == ["image0.png", "image2.jpg"]
        assert not json.loads((out / "manifest.json").read_text())["complete"]
    seen = predicted(monkeypatch)
    assert main(argv(checkpoint, images, out, *ALL)) == 0 and seen == ["sub/image1.tif"]
    assert contents(out) == contents(tmp_path / "whole")


class Full:
    """A file that holds half of what is first written, and no more."""

    def __init__(self, file: Any, stop: BaseException) -> None:
        self.file, self.stop = file, stop

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise self.stop

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_stopped_while_writing(
    stop: BaseException,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever file it was, what has its name is whole, and the same command goes on."""
    original, seen = Path.open, predicted(monkeypatch)
    assert main(argv(checkpoint, images, tmp_path / "whole", *ALL)) == 0
    whole = contents(tmp_path / "whole")
    for fatal in (2, 5, 8, 9, 16, 23, 26):  # a manifest, 7 files for each image, 3 tables and it
        out, writes = tmp_path / f"out{fatal}", 0

        def open_file(
            path: Path, mode: str = "r", *more: Any, last: int = fatal, **rest: Any
        ) -> Any:
            nonlocal writes
            file = original(path, mode, *more, **rest)
            if mode != "wb":
                return file
            writes += 1
            return Full(file, stop) if writes >= last else file

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_file)
            status = main(argv(checkpoint, images, out, *ALL))
        errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        left = contents(out)
        assert not json.loads(left.pop("manifest.json"))["complete"]
        assert all(whole[name] == data for name, data in left.items()) and len(left) < len(whole)
        done = sum(name.startswith(".state") for name in left)
        if isinstance(stop, KeyboardInterrupt):
            assert status == 130
        else:
            assert status == 2 and len(errors) == 1
            assert "No space left" in errors[0] and f"; {done} of 3 images are done" in errors[0]
        seen.clear()
        assert main(argv(checkpoint, images, out, *ALL)) == 0 and len(seen) == 3 - done
        assert contents(out) == whole
