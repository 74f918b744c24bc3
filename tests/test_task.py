"""The task by itself: what a step computes, what it scores, and what it refuses."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from segmentation import __version__
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import PARTS, Split
from segmentation.data.seen import trained_on
from segmentation.errors import UserError
from segmentation.fitting import check_fit
from segmentation.losses import BCEDice, DeepSupervision
from segmentation.schedules import WarmupCosine
from segmentation.score_names import LOGGED
from segmentation.targets import Foreground
from segmentation.task import Schedule
from tests.tiny import (
    PREPROCESS,
    Scripted,
    Tiny,
    batch,
    loader,
    normalized,
    same_weights,
    task,
    trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


class Data(LightningDataModule):
    """Nothing but a split and one batch."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split, self.source = split, SimpleNamespace(name="data")
        self.digests = {
            image: f"digest of {image}" for part in PARTS for image in getattr(split, part)
        }

    def train_dataloader(self) -> Any:
        return loader(batch())

    def test_dataloader(self) -> Any:
        return loader(batch())

    val_dataloader = test_dataloader


@pytest.mark.parametrize("heads", [1, 2])
def test_a_step_follows_the_gradient(heads: int) -> None:
    """Every head is trained; an evaluation uses the last one."""
    losses = BCEDice(), DeepSupervision(BCEDice(), [1.0, 3.0])
    ours, plain, data = task(Tiny(heads), losses[heads - 1]), Tiny(heads), batch()
    trainer(max_steps=1).fit(ours, loader(data))
    found = plain(normalized(data["image"]))
    every = [BCEDice()(one, data["target"]) for one in (found if heads > 1 else [found])]
    loss = every[0] if heads == 1 else (every[0] + 3 * every[1]) / 4
    loss.backward()
    assert ours.trainer.callback_metrics["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    with torch.no_grad():
        for p in plain.parameters():
            assert p.grad is not None and p.grad.abs().max() > 1e-4
            p.sub_(0.1 * p.grad)
    assert same_weights(ours.net, plain)
    (scores,) = trainer().validate(ours, loader(data), verbose=False)
    wanted = BCEDice()(plain.eval()(normalized(data["image"])), data["target"])
    assert scores["val/loss"] == pytest.approx(wanted.item(), rel=1e-5)


class Weighted(nn.Module):
    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return logits.mean() if weight is None else (logits * weight[:, None]).sum()


def test_pixel_weights_reach_the_loss() -> None:
    data = batch()
    weighted = {**data, "weight": torch.rand(2, 16, 24)}
    with torch.no_grad():
        logits = Tiny()(normalized(data["image"]))
    total = (logits[:, 0] * weighted["weight"]).sum()
    for one, wanted in ((data, logits.mean()), (weighted, total)):
        (scores,) = trainer().validate(task(loss=Weighted()), loader(one), verbose=False)
        assert scores["val/loss"] == pytest.approx(wanted.item(), rel=1e-4)
    with pytest.raises(UserError, match=r"data\.weight: Scripted takes no weights"):
        trainer().fit(task(loss=Scripted(1.0)), loader(weighted))


@pytest.mark.parametrize("compile", [True, False])
def test_compilation_is_asked_for(compile: bool) -> None:
    ours, calls = task(compile=compile), []
    ours.net.compile = lambda: calls.append(1)  # compiling itself takes long
    trainer().validate(ours, loader(batch()), verbose=False)
    assert len(calls) == compile


@torch.no_grad()
def test_half_precision_gives_scores_in_single() -> None:
    ours, data = task(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.validation_step(data, 0)["foreground"].dtype == torch.float32
    wanted = BCEDice()(Tiny()(normalized(data["image"])), data["target"])
    assert (ours.val_loss.compute() - wanted).abs() < 0.01


def test_a_window_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(UserError, match=r"multiples of 4, not 16×22; set data\.crop to 16×24"):
        trainer().fit(task(), loader(batch(size=(16, 22))))


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_changes_nothing_but_the_speed(channels_last: bool) -> None:
    ours, other = task(channels_last=channels_last), task(channels_last=not channels_last)
    data = batch()
    with torch.no_grad():
        assert torch.allclose(ours(data["image"]), other(data["image"]), atol=1e-6)
    for tensor in (ours.net.seen, ours.net.body.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is channels_last


def symmetries(image: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """The eight views, written as flips and one transposition, each with its way back."""
    for transposed in (False, True):
        for axes in ([], [-1], [-2], [-1, -2]):
            view = image.flip(axes) if axes else image
            view = view.transpose(-1, -2) if transposed else view

            def back(probs: Tensor, turn: bool = transposed, axes: list[int] = axes) -> Tensor:
                probs = probs.transpose(-1, -2) if turn else probs
                return probs.flip(axes) if axes else probs

            yield view, back


@torch.no_grad()
def test_tta_is_the_mean_over_the_eight_symmetries() -> None:
    plain, averaging = task().eval(), task(tta=True).eval()
    data = batch(size=(14, 24))  # padded as well
    wanted = torch.stack([back(plain(view)) for view, back in symmetries(data["image"])]).mean(0)
    assert torch.allclose(averaging(data["image"]), wanted, atol=1e-6)
    assert not torch.allclose(plain(data["image"]), wanted, atol=1e-3)
    assert torch.allclose(averaging.test_step(data, 0)["foreground"], wanted[:, 0], atol=1e-6)
    alone = averaging.validation_step(data, 0)["foreground"]  # would make training slow
    assert torch.allclose(alone, plain(data["image"])[:, 0], atol=1e-6)


@torch.no_grad()
def test_a_resized_image_is_scored_at_its_own_size() -> None:
    ours = task(preprocess=Preprocess(resize=(16, 24)))
    data = batch(count=1, native=(40, 30))
    found = ours.validation_step(data, 0)["foreground"]
    small = ours.eval()(data["image"])[0, 0].numpy()
    wanted = cv2.resize(small, (30, 40), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-5)
    predicted, truth = wanted > 0.5, data["labels"][0].numpy() > 0
    iou = (predicted & truth).sum() / (predicted | truth).sum()
    assert ours.val_table.compute()["iou"].item() == pytest.approx(iou)
    loss = BCEDice()(ours.net(data["image"] / 255), data["target"])  # at the network's size
    assert ours.val_loss.compute().item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_losses_weigh_every_image_alike(stage: str) -> None:
    """Batches of 4, 1 and 2: the mean over batches would be another number."""
    batches = [batch(count, seed=count, names="abcdefg") for count in (4, 1, 2)]
    ours, loss = task(loss=BCEDice(per_image=True)), BCEDice(per_image=True)
    run = trainer()
    evaluate = run.validate if stage == "val" else run.test
    (scores,) = evaluate(ours, loader(*batches), verbose=False)
    net = Tiny().eval()
    every: list[float] = []
    counts: list[list[int]] = []
    with torch.no_grad():
        for data in batches:
            for image, target in zip(data["image"], data["target"], strict=True):
                logits = net(normalized(image[None]))
                every.append(loss(logits, target[None]).item())
                hit, truth = (logits > 0)[0].numpy(), target.numpy() > 0
                counts.append([(hit & truth).sum(), (hit | truth).sum()])
    assert scores[f"{stage}/loss"] == pytest.approx(np.mean(every), rel=1e-5)
    assert scores[f"{stage}/iou"] == pytest.approx(np.divide(*np.sum(counts, 0)))
    assert set(scores) == {f"{stage}/{name}" for name in ("loss", *LOGGED)}
    again = evaluate(ours, loader(batches[0]), verbose=False)[0]  # nothing of before is left
    assert again[f"{stage}/loss"] == pytest.approx(np.mean(every[:4]), rel=1e-5)
    assert again[f"{stage}/iou"] == pytest.approx(np.divide(*np.sum(counts[:4], 0)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (1, "epoch 0, batch 1 (c, d)"),
        (3, "epoch 0, batch 3 (g, h)"),
        (4, "epoch 1, batch 0 (a, b)"),
    ],
)
def test_a_loss_that_is_not_finite_is_named_one_step_late(
    value: float, bad: int, said: str
) -> None:
    """Batch 3 is the last of its training, and is looked at when the epoch ends."""
    loss = Scripted(*[1.0] * bad, value)
    ours = task(loss=loss)
    batches = [batch(seed=i, names="abcdefgh"[2 * i :]) for i in range(4)]
    with pytest.raises(UserError) as caught:
        trainer(max_epochs=bad // 4 + 1).fit(ours, loader(*batches))
    assert f"training loss became {value}" in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value) and "model.optimizer.lr" in str(caught.value)
    assert loss.calls == bad + 1  # no further step was made
    ours.loss = Scripted(1.0)
    trainer().fit(ours, loader(*batches))  # what is over does not come up again
    ours = task(optimizer=lambda parameters: SGD(parameters, lr=math.nan))  # ruined by a last step
    with pytest.raises(UserError, match=r"answers NaN to c, d: its training diverged; lower model"):
        trainer().fit(ours, loader(batches[0]), loader(batches[1]))


LEAK = Split(train=("c",), val=(), test=("a", "b"))


def test_testing_on_what_was_trained_on_is_refused() -> None:
    ours, other = task(), Split(train=(), val=("a",), test=("x", "y"))
    ours.trained_on = {"digest of b": "then", "digest of z": "z", "others/a": "a"}
    with pytest.raises(UserError, match=r"1 of 2 test images were trained on .* as b, called then"):
        trainer().fit(ours, datamodule=Data(LEAK))
    with pytest.raises(UserError, match="1 of 2 test images"):
        trainer().test(ours, datamodule=Data(LEAK))
    with pytest.warns(UserWarning, match="knows 1 of its training images by their names alone"):
        trainer().test(ours, datamodule=Data(other), verbose=False)
    ours.trained_on, ours.chosen_on = {}, {"digest of x": "x"}
    with pytest.warns(UserWarning, match=r"1 of 2 test images chose the epoch of .* as x\): their"):
        trainer().test(ours, datamodule=Data(other), verbose=False)
    ours.trained_on = trained_on({"trained_on": {"data": ["a", "z"], "others": ["b"]}})
    with pytest.raises(UserError, match=r"1 of 2 test images were trained on .* as a\)"):
        trainer().test(ours, datamodule=Data(LEAK))
    with pytest.raises(UserError, match=r"1 of 1 val images were trained on .* as a\)"):
        trainer().validate(ours, datamodule=Data(other))
    trainer().test(ours, loader(batch()), verbose=False)  # without a split nobody can tell


def test_a_checkpoint_says_what_it_was_trained_on(tmp_path: Path) -> None:
    first, path = trainer(), tmp_path / "x.ckpt"
    one = task()
    one.config = {"class_path": "X"}
    first.fit(one, datamodule=Data(Split(train=("b", "c"), val=(), test=("a",))))
    first.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["segmentation"]
    assert stored == {
        "version": __version__,
        "config": {"class_path": "X"},
        "preprocess": PREPROCESS.plain(),
        "trained_on": {"digest of b": "b", "digest of c": "c"},
    }
    ours = task()
    with pytest.raises(UserError, match="such as b"):
        trainer().test(ours, datamodule=Data(LEAK), ckpt_path=path)
    with pytest.raises(UserError, match="such as b"):  # resumed under another split
        trainer(max_epochs=2).fit(task(), datamodule=Data(LEAK), ckpt_path=path)
    assert ours.trained_on == stored["trained_on"] and same_weights(ours.net, one.net, atol=0)


def test_a_checkpoint_without_a_split_loads() -> None:
    stored: dict[str, Any] = {}
    task().on_save_checkpoint(stored)
    assert stored["segmentation"]["trained_on"] == {}
    ours = task()
    ours.trained_on = {"1f": "a", "2e": "b"}
    ours.on_save_checkpoint(stored)  # what weights have seen before goes with them
    assert stored["segmentation"]["trained_on"] == ours.trained_on
    ours.on_load_checkpoint(stored)
    assert ours.trained_on == {"1f": "a", "2e": "b"}
    with pytest.raises(UserError, match="trained_on is broken"):
        trained_on({"trained_on": {"a": 1}})


def test_checkpoints_that_do_not_fit_are_refused() -> None:
    stored: dict[str, Any] = {}
    task().on_save_checkpoint(stored)
    ours = task(preprocess=Preprocess(mean=PREPROCESS.mean, std=PREPROCESS.std, gamma=0.5))
    with pytest.raises(UserError, match=r"^model\.preprocess\.gamma is 0\.5 .* trained with 1\.0"):
        ours.on_load_checkpoint(stored)
    with pytest.raises(UserError, match="not written by this package"):
        task().on_load_checkpoint({"state_dict": {}})


def test_a_schedule_over_steps_is_told_how_many_there_are() -> None:
    """Two batches make one step; an interval of epochs is not for this schedule."""
    ours = task(
        lr_scheduler=lambda o: WarmupCosine(o, warmup=0.5, start=0.0),
        schedule=Schedule(interval="epoch"),
    )
    rates = []
    ours.on_train_batch_start = lambda *_: rates.append(ours.optimizers().param_groups[0]["lr"])
    run = trainer(max_epochs=3, accumulate_grad_batches=2)
    run.fit(ours, loader(*[batch(seed=i) for i in range(4)]))
    scheduler = ours.lr_schedulers()
    assert scheduler.total_steps == run.global_step == 6
    wanted = [
        0.1 * s / 3 if s < 3 else 0.05 * (1 + math.cos(math.pi * (s - 3) / 3)) for s in range(7)
    ]
    assert rates == pytest.approx(np.repeat(wanted[:6], 2).tolist())
    assert scheduler.get_last_lr() == pytest.approx([0.0])


@pytest.mark.parametrize(("monitor", "halved"), [("val/loss", 2), ("val/iou", 0)])
def test_a_plateau_of_the_monitored_value(
    monkeypatch: pytest.MonkeyPatch, monitor: str, halved: int
) -> None:
    """The loss stands still, the (made up) IoU falls all the time, and lower is taken as better."""
    ours = task(
        loss=Scripted(0.0),
        lr_scheduler=lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0),
        schedule=Schedule(monitor=monitor),
    )
    falling = iter(torch.linspace(1, 0, 10))
    monkeypatch.setattr(ours.val_table, "compute", lambda: {"iou": next(falling)})
    trainer(max_epochs=3, num_sanity_val_steps=0).fit(ours, loader(batch()), loader(batch()))
    assert ours.optimizers().param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**halved)


ENCODER = SimpleNamespace(in_channels=1)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (SimpleNamespace(in_channels=1), r"takes 1 channel\(s\) but model\.preprocess makes 3"),
        (SimpleNamespace(encoder=ENCODER), r"takes 1 channel\(s\)"),
        (SimpleNamespace(in_channels=3, encoder=ENCODER), None),
        (SimpleNamespace(classes=2), r"gives 2 class\(es\) but Foreground needs 1; set net\.class"),
        (SimpleNamespace(in_channels=3, classes=1), None),
        (nn.Conv2d(3, 1, 1), None),
        (nn.Identity(), None),  # it does not tell
    ],
)
def test_channels_have_to_agree(net: Any, said: str | None) -> None:
    with pytest.raises(UserError, match=r"model\.net takes 3 channel\(s\)"):
        task(preprocess=Preprocess(channels=1))
    if said is None:
        check_fit(net, Foreground(), Preprocess())
        return
    with pytest.raises(UserError, match=rf"^model\.net {said}"):
        check_fit(net, Foreground(), Preprocess())
