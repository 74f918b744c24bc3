"""What every network must do: its test subclasses `NetContract` and says how to build it."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from segmentation.models.blocks import SegmentationNet


def keras_parameters(net: nn.Module) -> int:
    """Count as Keras' summary does: batch norm's running mean and variance are parameters too."""
    names = ("running_mean", "running_var")
    running = (buffer for name, buffer in net.named_buffers() if name.endswith(names))
    return sum(tensor.numel() for tensor in itertools.chain(net.parameters(), running))


def logits_of(net: nn.Module, image: Tensor) -> list[Tensor]:
    """Call a network and return its logits as a list, also where it answers with one tensor."""
    output = net(image)
    return list(output) if isinstance(output, list) else [output]


def assert_all_parameters_learn(net: nn.Module, image: Tensor) -> None:
    """Backward in training mode must reach every parameter: DDP hangs or raises otherwise."""
    net.train()
    loss = torch.stack([logits.square().mean() for logits in logits_of(net, image)]).sum()
    torch.autograd.backward(loss)
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def randomise_norms(net: nn.Module) -> None:
    """Give batch norms statistics and weights unlike their initial ones, as training would."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(std=0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)


class NetContract:
    """Tests for one network; `build` makes a narrow one that is quick to run."""

    def build(self, in_channels: int = 3, classes: int = 1) -> SegmentationNet:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _seed(self) -> None:
        torch.manual_seed(0)

    @pytest.mark.parametrize("in_channels", [1, 3, 4])
    @pytest.mark.parametrize("classes", [1, 3])
    def test_shapes(self, in_channels: int, classes: int) -> None:
        net = self.build(in_channels, classes)
        assert (net.in_channels, net.classes) == (in_channels, classes)
        height, width = 2 * net.stride, 3 * net.stride
        image = torch.randn(2, in_channels, height, width)
        for logits in [*logits_of(net.train(), image), *logits_of(net.eval(), image)]:
            assert logits.shape == (2, classes, height, width)
            assert logits.dtype == torch.float32

    def test_one_tensor_in_evaluation(self) -> None:
        net = self.build().eval()
        assert isinstance(net(torch.randn(1, 3, net.stride, net.stride)), Tensor)

    def test_output_is_logits(self) -> None:
        net = self.build(classes=3).eval()
        logits = net(10 * torch.randn(4, 3, 2 * net.stride, 2 * net.stride))
        assert logits.min() < 0  # no sigmoid, softmax or ReLU at the end

    def test_all_parameters_learn(self) -> None:
        net = self.build()
        assert_all_parameters_learn(net, torch.randn(2, 3, 2 * net.stride, 2 * net.stride))

    def test_state_dict_round_trip(self) -> None:
        net, other = self.build(), self.build()
        randomise_norms(net)
        other.load_state_dict(net.state_dict())
        image = torch.randn(1, 3, net.stride, net.stride)
        assert torch.equal(net.eval()(image), other.eval()(image))

    def test_channels_last(self) -> None:
        net = self.build().eval()
        image = torch.randn(2, 3, 2 * net.stride, 2 * net.stride)
        expected = net(image)
        net.to(memory_format=torch.channels_last)
        actual = net(image.to(memory_format=torch.channels_last))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)

    def test_autocast(self) -> None:
        net = self.build()
        image = torch.randn(2, 3, 2 * net.stride, 2 * net.stride)
        expected = net.eval()(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = net(image)
            assert_all_parameters_learn(net, image)
        torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.3)

    @pytest.mark.parametrize(("extra_height", "extra_width"), [(1, 0), (0, -1), (-1, 1)])
    def test_bad_size(self, extra_height: int, extra_width: int) -> None:
        net = self.build()
        if net.stride == 1:
            pytest.skip("takes any size")
        height, width = 2 * net.stride + extra_height, 2 * net.stride + extra_width
        with pytest.raises(ValueError) as error:
            net(torch.zeros(1, 3, height, width))
        message = str(error.value)
        would_work = (-(-size // net.stride) * net.stride for size in (height, width))
        assert f"{height}x{width}" in message
        assert f"stride {net.stride}:" in message
        assert "{}x{} would work".format(*would_work) in message
        assert "\n" not in message

    def test_empty_image(self) -> None:
        net = self.build()
        with pytest.raises(ValueError, match=f"{net.stride}x{net.stride} would work"):
            net(torch.zeros(1, 3, 0, 0))

    def test_wrong_channels(self) -> None:
        net = self.build()
        with pytest.raises(ValueError, match=r"expected 3 channel\(s\), got 4"):
            net(torch.zeros(1, 4, net.stride, net.stride))

    def test_not_a_batch(self) -> None:
        net = self.build()
        with pytest.raises(ValueError, match=r"got shape \(3, \d+, \d+\)"):
            net(torch.zeros(3, net.stride, net.stride))

    @pytest.mark.parametrize("name", ["in_channels", "classes"])
    def test_bad_channels(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            self.build(**{name: 0})
