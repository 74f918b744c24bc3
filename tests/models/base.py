"""What the tests of networks share."""

import itertools

import torch
from torch import Tensor, nn


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
