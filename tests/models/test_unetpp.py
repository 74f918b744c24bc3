from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentation.models import UNetPlusPlus
from segmentation.models.unetpp import Mode, mean_probability_logits

from .base import assert_all_parameters_learn, keras_parameters, randomise_norms


def build(**arguments: Any) -> UNetPlusPlus:
    """A small network in evaluation mode whose batch norms have something to get wrong."""
    torch.manual_seed(0)
    net = UNetPlusPlus(**{"in_channels": 2, "width": 2, **arguments}).eval()
    randomise_norms(net)
    return net


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 2, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("convs_per_node", "count"),
    [
        # Matches the Keras implementation only with a bias on every convolution, one convolution
        # per node and batch norm's running mean and variance counted (32,038,980 are trained).
        (1, 32_050_244),
        (2, 36_187_332),
    ],
)
def test_parameters(convs_per_node: int, count: int) -> None:
    with torch.device("meta"):
        net = UNetPlusPlus(convs_per_node=convs_per_node)
    assert keras_parameters(net) == count
    if convs_per_node == 1:
        assert sum(p.numel() for p in net.parameters()) == 32_038_980


def test_order_is_conv_relu_norm() -> None:
    net = build(convs_per_node=2)
    for block in [*net.encoder, *net.nodes.values()]:
        assert isinstance(block, nn.Sequential)
        assert [type(m) for m in block] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2


@pytest.mark.parametrize("mode", ["accurate", "fast"])
def test_training_returns_every_head(mode: Mode, image: Tensor) -> None:
    net = build(classes=3, mode=mode).train()
    logits = net(image)
    assert isinstance(logits, list)
    assert [tuple(head.shape) for head in logits] == [(2, 3, 32, 48)] * 4
    assert net.levels == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"mode": "fast", "head": 1}, {"deep_supervision": False}],
    ids=["accurate", "fast", "one head"],
)
def test_every_parameter_gets_a_gradient(arguments: dict[str, Any], image: Tensor) -> None:
    assert_all_parameters_learn(build(**arguments), image)


def test_accurate_is_mean_sigmoid(image: Tensor) -> None:
    net = build()
    mean = torch.stack(net.head_logits(image)).sigmoid().mean(0)
    torch.testing.assert_close(net(image).sigmoid(), mean)


def test_accurate_is_mean_softmax(image: Tensor) -> None:
    net = build(classes=3)
    mean = torch.stack(net.head_logits(image)).softmax(2).mean(0)
    torch.testing.assert_close(net(image).softmax(1), mean)
    torch.testing.assert_close(net(image).exp(), mean)


@pytest.mark.parametrize("value", [-500.0, -20.0, 0.0, 20.0, 500.0])
def test_mean_of_confident_heads_is_finite(value: float) -> None:
    heads = [torch.full((1, 1, 1, 1), value)] * 4
    assert mean_probability_logits(heads).item() == pytest.approx(value)
    # Two certain heads of opposite opinion are one half.
    opposed = [torch.full((1, 1, 1, 1), sign * value) for sign in (1, -1)]
    assert mean_probability_logits(opposed).item() == pytest.approx(0)
    softmax = mean_probability_logits([torch.tensor([value, 0.0]).view(1, 2, 1, 1)] * 4)
    assert (softmax[0, 0] - softmax[0, 1]).item() == pytest.approx(value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_mean_is_float32_or_better(dtype: torch.dtype) -> None:
    heads = [torch.full((1, 1, 1, 1), 12.0, dtype=dtype)] * 4
    mean = mean_probability_logits(heads)
    assert mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert mean.item() == pytest.approx(12, abs=1e-3)


@pytest.mark.parametrize("head", [1, 2, 3, 4, None])
def test_fast_computes_its_nodes_only(head: int | None, image: Tensor) -> None:
    net = build(mode="fast", head=head)
    level = head or 4
    calls: list[str] = []
    for name, module in [*net.ups.items(), *net.nodes.items(), *net.heads.items()]:
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    for i, block in enumerate(net.encoder):
        block.register_forward_hook(lambda *_, i=i: calls.append(f"{i}_0"))
    logits = net(image)

    nodes = [f"{i}_{j}" for j in range(1, level + 1) for i in range(level - j + 1)]
    expected = [*(f"{i}_0" for i in range(level + 1)), *nodes, *nodes, str(level)]
    assert sorted(calls) == sorted(expected)
    assert torch.equal(logits, net.head_logits(image)[level - 1])


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "arguments", [{}, {"classes": 3, "convs_per_node": 2, "convs_per_block": 1}]
)
def test_pruned_equals_head(level: int, arguments: dict[str, Any], image: Tensor) -> None:
    net = build(**arguments)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruned = net.pruned(level)
    assert not pruned.training
    assert torch.equal(pruned(image), net.head_logits(image)[level - 1])

    # It is the network that plain arguments describe, with no parameter more.
    plain = build(**arguments, depth=level + 1, deep_supervision=False)
    assert keras_parameters(pruned) == keras_parameters(plain)
    assert pruned.stride == plain.stride == 2**level
    plain.load_state_dict(pruned.state_dict())
    assert torch.equal(plain(image), pruned(image))

    # Its weights are copies, and it can be trained on.
    assert_all_parameters_learn(pruned, image)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_pruned_keeps_mode_and_dtype_and_draws_no_random_numbers() -> None:
    net = build()
    state = torch.get_rng_state()
    pruned = net.train().double().pruned(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert pruned.training and pruned.get_parameter("nodes.0_2.0.weight").dtype == torch.float64


def test_without_deep_supervision_only_the_last_head_exists(image: Tensor) -> None:
    net = build(deep_supervision=False, head=4)
    assert net.levels == [4]
    assert torch.equal(net.pruned(4)(image), net(image))
    assert isinstance(net.train()(image), Tensor)
    with pytest.raises(ValueError, match=r"no head 2, only \[4\]"):
        net.pruned(2)


@pytest.mark.parametrize("level", [-1, 0, 5])
def test_no_such_level(level: int, image: Tensor) -> None:
    net = build()
    with pytest.raises(ValueError, match=rf"no head {level}, only \[1, 2, 3, 4\]"):
        net.pruned(level)
    net.mode, net.head = "fast", level
    with pytest.raises(ValueError, match=f"no head {level}"):
        net(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be from 2 to 12, got 0"),
        ({"depth": 10**9}, "depth must be from 2 to 12, got 1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"convs_per_block": 0}, "convs_per_block must be at least 1, got 0"),
        ({"convs_per_node": 0}, "convs_per_node must be at least 1, got 0"),
        ({"mode": "exact"}, "mode must be one of accurate, fast, got 'exact'"),
        ({"mode": "fast", "head": 5}, "no head 5"),
        ({"mode": "fast", "head": 0}, "no head 0"),
        ({"deep_supervision": False, "head": 1}, r"no head 1, only \[4\]"),
        ({"head": 2}, "head=2 is used in mode 'fast' only"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
