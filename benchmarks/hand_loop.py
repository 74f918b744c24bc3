"""The hand-written training loop that ``loop.py`` compares ``fit`` with."""

import copy
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import device, now
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.preprocess import Preprocess
from segmentation.inference import padded
from segmentation.losses import BCEDice


class Times(NamedTuple):
    """Seconds of a training step and of an epoch with its validation; mean training loss."""

    step: float
    epoch: float
    loss: float


def by_hand(net: nn.Module, data: SegmentationDataModule) -> Times:
    """One epoch without Lightning: training, validation with loss and IoU, a checkpoint."""
    data.trainer = None
    data.setup("fit")
    train, val = data.train_dataloader(), data.val_dataloader()
    net = copy.deepcopy(net).to(device()).train()
    net.to(memory_format=torch.channels_last)
    loss_of, optimizer = BCEDice(), torch.optim.AdamW(net.parameters(), 1e-3)
    normalize = Preprocess().normalize
    assert isinstance(train.sampler, DistributedSampler)

    def forward(batch: Any) -> tuple[Tensor, Tensor]:
        image = normalize(batch["image"].to(device(), non_blocking=True))
        logits = padded(net, image.contiguous(memory_format=torch.channels_last), 16)
        return logits, batch["target"].to(device(), non_blocking=True)

    start = now()
    train.sampler.set_epoch(0)
    total = torch.zeros((), device=device())
    for batch in train:
        logits, target = forward(batch)
        loss = loss_of(logits, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        total += loss.detach()
    trained = now()
    net.eval()
    val_loss = both = either = torch.zeros((), device=device())
    with torch.inference_mode():
        for batch in val:
            logits, target = forward(batch)
            val_loss = val_loss + loss_of(logits, target)
            predicted, truth = logits > 0, target > 0
            both = both + (predicted & truth).sum()
            either = either + (predicted | truth).sum()
        float(val_loss), float(both / either)
    with tempfile.TemporaryDirectory() as folder:
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, Path(folder, "best.ckpt"))
        end = now()
    return Times((trained - start) / len(train), end - start, float(total) / len(train))
