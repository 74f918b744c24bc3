"""Choices are functions of what was seen: checked in closed form."""

from dataclasses import replace
from typing import Any

import pytest

from segmentation.errors import UserError
from segmentation.experiments.plan.budget import (
    EPOCH,
    LEAST,
    MARGIN,
    START,
    Size,
    Speed,
    schedule,
    sizes,
)
from segmentation.experiments.plan.choices import choose_parts, choose_time
from segmentation.experiments.plan.facts import DataFacts, Machine
from segmentation.experiments.plan.made import joined
from segmentation.experiments.plan.one_kind import OneKind

FACTS = DataFacts(
    train=70, val=15, test=15, groups=0, kinds=(), smallest=(256, 256), largest=(256, 256),
    sizes=1, channels=(1,), colour=False, bits=12, mean=0.2, std=0.1, background="dark",
    objects=20.0, empty=0.0, diameter=18.0, area=40, touching=0.2, unannotated=0.0, classes=(),
    looked_at=50,
)  # fmt: skip
CPU = Machine(2, "cpu", "cpu", 16, False)
GPU = Machine(16, "cuda", "H", 140, True)
SMALL = Size(8, 128, 4)


def chosen(facts: DataFacts, machine: Machine = CPU, size: Size = SMALL, **more: Any) -> Any:
    return joined(choose_parts(facts, machine, size, **more))


def model(facts: DataFacts, part: str, **more: Any) -> Any:
    return chosen(facts, **more)["model"]["init_args"][part]


@pytest.mark.parametrize(
    ("changed", "channels", "count"),
    [
        ({}, "gray", 1),
        ({"channels": (3,)}, "gray", 1),
        ({"channels": (1, 3), "colour": True}, "rgb", 3),
        ({"channels": (5,)}, [0, 1, 2, 3, 4], 5),
    ],
)
def test_channels(changed: dict[str, Any], channels: Any, count: int) -> None:
    facts = replace(FACTS, **changed)
    assert model(facts, "preprocess")["channels"] == channels
    assert model(facts, "net")["init_args"]["in_channels"] == count


def test_what_is_learned_follows_touching_classes_and_annotation() -> None:
    none = model(replace(FACTS, touching=0.0), "target")
    assert none["init_args"] == {"min_size": 20}  # half of what 99 of 100 objects have
    assert model(FACTS, "target")["init_args"] == {"min_size": 20, "seed_distance": 6}
    crowded = replace(FACTS, touching=0.7)
    assert model(crowded, "target")["init_args"]["gap"] == 1
    assert "weight" in chosen(crowded)["data"]["init_args"]
    partly = chosen(replace(crowded, unannotated=0.5))
    assert "weight" not in partly["data"]["init_args"]
    classes = chosen(replace(FACTS, classes=("a", "b")))
    assert classes["model"]["init_args"]["net"]["init_args"]["classes"] == 3
    assert classes["checkpoint"] == {"monitor": "val/class_pq"}
    assert chosen(FACTS)["checkpoint"] == {"monitor": "val/image_ap"}
    assert "checkpoint" not in chosen(replace(FACTS, touching=0.0))


def test_flows_are_learned_by_wide_networks_where_objects_touch() -> None:
    wide: Any = {"size": Size(16, 128, 4)}
    assert model(FACTS, "target", **wide)["class_path"] == "segmentation.targets.Flow"
    assert model(FACTS, "loss", **wide)["class_path"] == "segmentation.losses.FlowLoss"
    assert model(FACTS, "net", **wide)["init_args"]["classes"] == 3
    assert chosen(FACTS, **wide)["checkpoint"] == {"monitor": "val/image_ap"}
    assert model(FACTS, "target", pretrained="file.pth")["class_path"].endswith("Flow")
    others = ({"touching": 0.0}, {"unannotated": 0.1})
    for changed in ({}, *others):
        size = wide if changed else {}  # a narrow one
        target = model(replace(FACTS, **changed), "target", **size)
        assert target["class_path"] == "segmentation.targets.Foreground"
    classes = replace(FACTS, classes=("a", "b"))
    assert model(classes, "target", **wide)["class_path"] == "segmentation.targets.Classes"


@pytest.mark.parametrize(
    ("changed", "recipe"),
    [({}, "nuclei"), ({"background": "middle"}, "cells"), ({"colour": True}, "nuclei")],
)
def test_augmentation(changed: dict[str, Any], recipe: str) -> None:
    data = chosen(replace(FACTS, **changed))["data"]["init_args"]
    assert data["augmentation"] == recipe


def test_balance() -> None:
    data = chosen(replace(FACTS, kinds=("a", "b"), empty=0.4))["data"]["init_args"]
    assert data["sampling"] == {"balance": 0.25, "balance_empty": True}
    assert "sampling" not in chosen(FACTS)["data"]["init_args"]


def test_precision_and_workers_follow_the_machine() -> None:
    assert chosen(FACTS, GPU)["trainer"]["precision"] == "bf16-mixed"
    assert chosen(FACTS)["trainer"]["precision"] == "32-true"
    assert "num_workers" not in chosen(FACTS)["data"]["init_args"]
    assert chosen(FACTS, replace(CPU, cores=1))["data"]["init_args"]["num_workers"] == 0


def test_a_mixture_is_shown_as_one_kind_of_picture() -> None:
    mixture = OneKind(dark=40, bright=4, stained=6, right=0.96, mean=0.3, std=0.2)
    facts = replace(FACTS, channels=(1, 3), colour=True, one_kind=mixture)
    seen = model(facts, "preprocess")
    assert (seen["channels"], seen["mean"], seen["std"]) == ("bright_on_dark", [0.3], [0.2])
    assert model(facts, "net")["init_args"]["in_channels"] == 1
    encoder = model(facts, "net", pretrained="file.pth")
    assert encoder["init_args"]["in_channels"] == 1
    assert model(facts, "preprocess", pretrained="file.pth")["mean"] == [0.5]
    why = {choice.key: choice.reason for choice in choose_parts(facts, CPU, SMALL)}
    assert (
        "40 show bright objects on dark, 4 dark ones on bright, and 6 are stained"
        in (why["model.init_args.preprocess.channels"])
    )
    assert "in gray" in why["data.init_args.augmentation"]
    for changed in (
        {"one_kind": mixture._replace(right=0.8)},  # the objects are not what is bright then
        {"one_kind": mixture._replace(dark=1000)},
        {"classes": ("a", "b")},  # which colours may tell
    ):
        assert model(replace(facts, **changed), "preprocess")["channels"] == "rgb"
    stained = replace(facts, one_kind=mixture._replace(dark=0))
    assert model(stained, "preprocess")["channels"] == "rgb"
    reasons = " ".join(choice.reason for choice in choose_parts(stained, CPU, SMALL))
    assert "try bright_on_dark" in reasons


def test_a_pretrained_encoder_is_asked_for() -> None:
    net = model(FACTS, "net", pretrained="file.pth")
    assert net["init_args"]["encoder_weights"] == "file.pth"
    assert model(FACTS, "preprocess", pretrained="file.pth")["channels"] == "rgb"
    assert {size.width for size in sizes(FACTS, CPU, pretrained=True)} == {16}


def test_windows_follow_the_objects_and_stay_within_the_images() -> None:
    assert sizes(FACTS, CPU)[0] == Size(32, 256, 4)  # 14 · 18, in steps of 32
    assert sizes(FACTS, CPU)[-1] == Size(8, 128, 4)
    assert sizes(FACTS, GPU)[0].width == 64
    small = replace(FACTS, smallest=(100, 90))
    assert {size.crop for size in sizes(small, CPU)} == {64}
    large = replace(FACTS, diameter=100.0, smallest=(512, 512))
    assert model(large, "preprocess")["magnification"] == 0.5
    # What decoding looks at is meant at the network's scale.
    assert model(large, "target")["init_args"] == {"min_size": 5, "seed_distance": 17}
    assert "magnification" not in model(FACTS, "preprocess")


def test_every_choice_of_weight_has_a_reason() -> None:
    speed = Speed(0.1, 0.05, 5.0)
    plan = schedule(FACTS, SMALL, speed, 600)
    every = [*choose_parts(FACTS, CPU, SMALL), *choose_time(FACTS, SMALL, speed, plan, 600)]
    reasons = {choice.key.rpartition(".")[2]: choice.reason for choice in every}
    for key in ("net", "target", "crop", "batch_size", "max_epochs", "augmentation", "precision"):
        assert reasons[key].endswith("."), key
    assert reasons["crop"] == (
        "crop 128: objects have a median diameter of 18 pixels, the smallest image is 256×256."
    )


@pytest.mark.parametrize("budget", [120, 600, 3600, 20_000])
@pytest.mark.parametrize("image", [0.01, 0.5])
@pytest.mark.parametrize("train", [4, 70, 3000])
def test_a_schedule_fills_its_budget(budget: float, image: float, train: int) -> None:
    facts, speed = replace(FACTS, train=train), Speed(0.1, image, 5.0)
    plan = schedule(facts, SMALL, speed, budget)
    around = 2 * START + 5 + 2 * 15 * image + 2 * image
    epoch = plan.steps * 0.1 + 15 * image + EPOCH
    assert plan.seconds == pytest.approx(around + plan.epochs * epoch)
    assert plan.seconds <= budget * (1 - MARGIN) < plan.seconds + epoch + 0.1 * plan.epochs
    assert plan.epochs >= 4 and plan.total > LEAST - plan.epochs
    assert not plan.whole or plan.steps == train // 4


def test_the_least_budget_is_said_and_does() -> None:
    speed = Speed(0.5, 0.1, 5.0)
    with pytest.raises(UserError, match=r"--budget 30s: too small .* take 2m; give at least that"):
        schedule(FACTS, SMALL, speed, 30)
    assert schedule(FACTS, SMALL, speed, 120).total >= LEAST
