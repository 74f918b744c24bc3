"""A task small enough to check by hand, its batches, and a trainer that says nothing."""

from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.optim import SGD

from segmentation.data.preprocess import Preprocess
from segmentation.losses import BCEDice
from segmentation.targets import Foreground
from segmentation.task import SegmentationTask

PREPROCESS = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


class Tiny(nn.Module):
    """Two convolutions, and a second head in training if wanted. It remembers its last input."""

    stride, in_channels, classes = 4, 3, 1

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv2d(4, 1, 3, padding=1) for _ in range(heads))

    def forward(self, image: Tensor) -> Any:
        self.seen = image
        features = self.body(image).relu()
        outputs = [head(features) for head in self.heads]
        return outputs if self.training and len(outputs) > 1 else outputs[-1]


class Scripted(nn.Module):
    """A loss of a given value at each call, the last one for ever, and a gradient of 0."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values, self.calls = values, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        value = self.values[min(self.calls, len(self.values) - 1)]
        self.calls += 1
        return logits.mean() * 0 + value


def task(net: nn.Module | None = None, loss: nn.Module | None = None, **more: Any) -> Any:
    settings: dict[str, Any] = {"preprocess": PREPROCESS, "optimizer": sgd, **more}
    return SegmentationTask(net or Tiny(), loss or BCEDice(), Foreground(), **settings)


def sgd(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1)


def batch(
    count: int = 2,
    size: tuple[int, int] = (16, 24),
    native: tuple[int, int] | None = None,
    seed: int = 0,
    names: str = "ab",
) -> dict[str, Any]:
    """What the data module gives; with ``native`` the labels have another size than the image."""
    rng = np.random.default_rng(seed)
    target = (rng.random((count, 1, *size)) < 0.3).astype(np.uint8)
    truth = target[:, 0] > 0 if native is None else rng.random((count, *native)) < 0.3
    labels = truth * rng.integers(1, 9, truth.shape)  # instance ids
    return {
        "image": torch.from_numpy(rng.integers(0, 256, (count, 3, *size), dtype=np.uint8)),
        "target": torch.from_numpy(target),
        "labels": torch.from_numpy(labels.astype(np.int32)),
        "id": list(names[:count]),
        "kind": [""] * count,
    }


def loader(*batches: dict[str, Any]) -> Any:
    return torch.utils.data.DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


def trainer(**more: Any) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, **more}
    for name in ("checkpointing", "progress_bar", "model_summary"):
        settings[f"enable_{name}"] = False
    return Trainer(**settings)


def normalized(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (PREPROCESS.mean, PREPROCESS.std))
    return (image / 255 - mean) / std


def same_weights(a: nn.Module, b: nn.Module, atol: float = 1e-6) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, atol=atol) for x, y in pairs)
