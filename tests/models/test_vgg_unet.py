"""VGG-16 with three up-convolutions: the published sizes, frozen layers, weights from files."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from segmentation.checkpoints import build_task, load_task
from segmentation.errors import UserError
from segmentation.models import VGGUNet
from segmentation.trust import without_download


@pytest.fixture(scope="module")
def features() -> nn.Sequential:
    """Torchvision's own VGG-16, without its classifier and with random weights."""
    torch.manual_seed(1)
    return make_layers(cfgs["D"], batch_norm=False)


@pytest.fixture(scope="module")
def file(features: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its state dict, as torchvision would have saved it."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(3, 2)}, path)
    return path


def config(**net: Any) -> dict[str, Any]:
    return {
        "class_path": "segmentation.task.SegmentationTask",
        "init_args": {
            "net": {"class_path": "segmentation.models.VGGUNet", "init_args": net},
            "loss": {"class_path": "segmentation.losses.BCEDice"},
            "target": {"class_path": "segmentation.targets.Foreground"},
            "preprocess": {"channels": 3},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        },
    }


def test_published_sizes() -> None:
    with torch.device("meta"):
        net = VGGUNet()
        assert net(torch.empty(2, 3, 416, 576)).shape == (2, 1, 416, 576)
    encoder = sum(parameter.numel() for parameter in net.encoder.parameters())
    assert encoder == 14_714_688  # VGG-16's without its classifier
    assert sum(p.numel() for p in net.parameters()) == encoder + 2_097_408 + 1_572_992 + 6_145
    assert not any(isinstance(m, nn.BatchNorm2d | nn.Dropout) for m in net.modules())


def test_as_published_step_by_step(features: nn.Sequential, file: Path) -> None:
    """Torchvision's layers up to relu3_3, pool4 and pool5, then the decoder written out."""
    net = VGGUNet(weights=str(file)).eval()
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        relu3_3 = features[:16](image)
        pool4 = features[16:24](relu3_3)
        pool5 = features[24:](pool4)
        first, second, third = (up.state_dict() for up in net.ups)
        x = F.conv_transpose2d(pool5, first["weight"], first["bias"], 2, padding=1)
        x = torch.cat([x, pool4], dim=1)
        x = F.conv_transpose2d(x, second["weight"], second["bias"], 4)
        x = torch.cat([x, relu3_3], dim=1)
        expected = F.conv_transpose2d(x, third["weight"], third["bias"], 4)
        torch.testing.assert_close(net(image), expected)


@pytest.mark.parametrize("frozen", [0, 1, 8, 13])
def test_frozen_convolutions_stay_as_they_are(frozen: int) -> None:
    torch.manual_seed(0)
    net = VGGUNet(width=4, frozen=frozen)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    before = [convolution.weight.clone() for convolution in convs]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    for training in (False, True):
        net.train(training)
        loss = net(torch.randn(2, 3, 64, 64)).square().mean()
        loss.backward()
        optimizer.step()
    changed = [not torch.equal(c.weight, old) for c, old in zip(convs, before, strict=True)]
    assert changed == [False] * frozen + [True] * (13 - frozen)
    # Those that do learn all get a gradient, without which DDP would wait for ever.
    for parameter in net.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
    assert not any(p.requires_grad for c in convs[:frozen] for p in c.parameters())


def test_imagenet_is_torchvisions_and_read_safely(
    features: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def fetch(source: VGG16_Weights, **options: Any) -> dict[str, Tensor]:
        assert source is VGG16_Weights.IMAGENET1K_V1
        asked.append(options)
        return {f"features.{name}": value for name, value in features.state_dict().items()}

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", fetch)
    net = VGGUNet(weights="imagenet")
    assert asked == [{"check_hash": True, "map_location": "cpu", "weights_only": True}]
    assert torch.equal(net.get_parameter("encoder.4.4.bias"), features.state_dict()["28.bias"])


@pytest.mark.parametrize(
    "error", [URLError("no\n route"), RuntimeError('invalid hash value (expected "397923af")')]
)
def test_no_network(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", fail)
    with pytest.raises(UserError) as refusal:
        VGGUNet(weights="imagenet")
    message = str(refusal.value)
    assert "\n" not in message and refusal.value.__context__ is None
    assert message.startswith("model.net.weights: imagenet could not be had (")
    assert (
        "vgg16-397923af.pth elsewhere and set model.net.weights to the file, or to nul" in message
    )


def test_bad_files(tmp_path: Path) -> None:
    def refused(message: str, name: str) -> None:
        with pytest.raises(UserError, match=rf"model\.net\.weights: .*{name}{message}") as error:
            VGGUNet(weights=str(tmp_path / name))
        assert error.value.__context__ is None

    refused(" is no file; name one, or imagenet, or null", "gone.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    refused(": not a checkpoint, or a broken one", "page.pth")
    torch.save({}, tmp_path / "empty.pth")
    refused(r" is not a state dict of torchvision's VGG-16 \(features\.0\.weight ", "empty.pth")
    norms = make_layers([64, "M"], batch_norm=True).state_dict()
    torch.save({f"features.{k}": v for k, v in norms.items()}, tmp_path / "bn.pth")
    refused(
        r" is not a state dict of .*\(features\.2\.weight does not fit\); use vgg16, w", "bn.pth"
    )


def test_weights_of_other_channels(file: Path) -> None:
    gray = VGGUNet(in_channels=1, width=64, weights=str(file)).encoder[0]
    rgb = VGGUNet(width=64, weights=str(file)).encoder[0]
    one, three = (next(p for p in block.parameters() if p.ndim == 4) for block in (gray, rgb))
    torch.testing.assert_close(one, three.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frozen": -1}, "frozen must be from 0 to 13, got -1"),
        ({"frozen": 14}, "frozen must be from 0 to 13, got 14"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"weights": "x.pth"}, "are for width=64, got 4"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGGUNet(**{"width": 4, **arguments})


def test_a_checkpoint_needs_neither_network_nor_file(file: Path, tmp_path: Path) -> None:
    pretrained = tmp_path / "vgg16.pth"
    pretrained.write_bytes(file.read_bytes())
    task = build_task(config(frozen=8, weights=str(pretrained)))
    pretrained.unlink()
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    again = load_task(tmp_path / "x.ckpt")
    assert again.config == config(frozen=8, weights=None)
    for name, value in task.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert not again.net.get_parameter("encoder.3.0.weight").requires_grad


def test_only_names_of_weights_are_taken_out() -> None:
    loss = {"class_path": "x.Loss", "init_args": {"weights": [0.01, 1.0]}}
    given = {"net": config(weights="imagenet"), "loss": loss}
    assert without_download(given) == {"net": config(weights=None), "loss": loss}
