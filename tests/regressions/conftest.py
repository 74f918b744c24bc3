"""What the regression tests share: pictures of discs, and the command run on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning  # noqa: F401 (its log keeps the stream that it finds first, not that of a test)
import numpy as np
import pytest
from PIL import Image

from segmentation.__main__ import main

_TINY = [
    "--config=folder",
    "--run.wandb=off",
    "--run.name=t",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--run.tune=false",
    "--model.net.width=4",
    "--model.net.depth=3",
    "--data.crop=64",
    "--data.batch_size=2",
    "--data.num_workers=0",
]


def picture(
    seed: int, size: int = 96, count: int = 8, touching: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Gray discs on noise: (size, size) uint8 image and its int32 label map of ``count`` discs."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for i in range(count):
        y, x = (16 + 24 * (i // 4), 12 + 16 * (i % 4)) if touching else divmod(i, 4)
        if not touching:
            y, x = 12 + 24 * y, 12 + 24 * x
        y, x = y + int(rng.integers(-2, 3)), x + int(rng.integers(-2, 3))
        labels[(rows - y) ** 2 + (columns - x) ** 2 < 81] = i + 1
    image = 40 + 120 * (labels > 0) + rng.normal(0, 12, labels.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def write_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG file of (H, W) or (H, W, C) pixels; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pairs(
    root: Path,
    mask: Callable[[np.ndarray], np.ndarray] | None = None,
    number: int = 8,
    **settings: Any,
) -> Path:
    """``root/images/imN.png`` and ``root/masks/imN.png``: ``mask(labels)``, by default 0 and 255.

    ``settings`` are those of :func:`picture`.
    """
    for seed in range(number):
        image, labels = picture(seed, **settings)
        write_png(root / f"images/im{seed}.png", image)
        drawn = (labels > 0) * np.uint8(255) if mask is None else mask(labels)
        write_png(root / f"masks/im{seed}.png", drawn)
    return root


@dataclass(frozen=True)
class Result:
    """What a command answered: its exit status and all that it printed."""

    status: int
    text: str

    @property
    def line(self) -> str:
        """The last line: of the refusal, or else of the results."""
        return self.text.strip().rpartition("\n")[2]


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run a command in the test's own folder, with a cache of its own; never a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGMENTATION_CACHE", str(tmp_path / "cache"))

    def command(*words: object) -> Result:
        capfd.readouterr()
        status = main([str(word) for word in words])
        results, messages = capfd.readouterr()
        text = results + messages if status else messages + results
        assert "Traceback" not in text
        return Result(status, text)

    return command


@pytest.fixture
def fit(run: Callable[..., Result]) -> Callable[..., Result]:
    """Train a tiny network for one epoch on the folder ``root``; or ``what`` else takes a config"""

    def command(root: object, *options: object, what: str = "fit") -> Result:
        return run(what, *_TINY, f"--data.root={root}", *options)

    return command
