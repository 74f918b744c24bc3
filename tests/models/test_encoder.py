"""Weights of an encoder from a file: those of torchvision and timm, under their own names."""

import socket
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders._utils import patch_first_conv
from torch import Tensor, nn
from torchvision.models import resnet18

from segmentation.__main__ import main
from segmentation.checkpoints import load_task
from segmentation.errors import UserError
from segmentation.models import UNet
from segmentation.models.encoder import is_file, load_encoder
from tests.helpers import refusal, smp_arguments

DECODER = [16, 8, 4, 4, 4]


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """A classifier of torchvision's as it would be published, with random weights."""
    torch.manual_seed(7)
    network: nn.Module = resnet18(weights=None)
    for buffer in network.buffers():  # a batch norm that has seen something
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def file(published: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(published.state_dict(), path)
    return path


def unet(encoder: str, **options: Any) -> nn.Module:
    options = {"encoder_weights": None, "decoder_channels": DECODER, **options}
    net: nn.Module = smp.Unet(encoder, **options)
    return net.eval()


def deepest(network: nn.Module, image: Tensor) -> Tensor:
    """What torchvision's ResNet makes of an image, before pooling and classifier."""
    parts = [part for name, part in network.named_children() if name not in ("avgpool", "fc")]
    features: Tensor = nn.Sequential(*parts)(image)
    return features


def test_the_encoder_then_is_the_published_network(published: nn.Module, file: Path) -> None:
    net = unet("resnet18")
    decoder = {k: v.clone() for k, v in net.decoder.state_dict().items()}
    load_encoder(net, file)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.encoder(image)[-1], deepest(published, image))
    for name, value in net.decoder.state_dict().items():
        assert torch.equal(value, decoder[name])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
def test_timms_encoders_under_timms_names(name: str, tmp_path: Path) -> None:
    """Also those whose names timm changes where it is asked for features alone (convnext)."""
    torch.manual_seed(3)
    network = timm.create_model(name, pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    net = unet(f"tu-{name}")
    load_encoder(net, tmp_path / "timm.safetensors")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_intermediates(image, intermediates_only=True)[-1]
        torch.testing.assert_close(net.encoder(image)[-1], expected)


def test_files_and_names_are_told_apart() -> None:
    assert is_file("resnet34.pth") and is_file("w/x.safetensors") and is_file("a.b/c.bin")
    assert not any(map(is_file, ("imagenet", "advprop", None, 3, "noisy-student", "a.b/c")))


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_weights_are_adapted_to_other_channels_as_by_smp(file: Path, channels: int) -> None:
    net = unet("resnet18", in_channels=channels)
    load_encoder(net, file)
    theirs = unet("resnet18").encoder
    load_encoder(nn.ModuleDict({"encoder": theirs}), file)
    patch_first_conv(theirs, channels, 3, pretrained=True)
    torch.testing.assert_close(net.encoder.conv1.weight, theirs.conv1.weight)
    if channels % 3 == 0:  # gray images, repeated, look the same to it
        gray = torch.rand(1, 1, 64, 64)
        one, three = unet("resnet18", in_channels=channels), unet("resnet18")
        for network in (one, three):
            load_encoder(network, file)
        found = one.encoder(gray.repeat(1, channels, 1, 1))[-1]
        torch.testing.assert_close(found, three.encoder(gray.repeat(1, 3, 1, 1))[-1])


def test_bad_files(file: Path, tmp_path: Path) -> None:
    def refused(message: str, path: Path, net: nn.Module | None = None) -> None:
        with pytest.raises(UserError, match=message) as error:
            load_encoder(net or unet("resnet18"), path)
        assert str(error.value).startswith("model.net.encoder_weights: ")
        assert error.value.__context__ is None

    refused(r"gone\.pth is no file; name one, or imagenet, or null", tmp_path / "gone.pth")
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:5000])
    refused(r"cut\.pth: not a checkpoint, or a broken one; .*; use the file", tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"{}")
    refused(r"cut\.safetensors: broken", tmp_path / "cut.safetensors")
    torch.save(nn.ReLU(), tmp_path / "code.pth")
    refused(r"code\.pth: refused, it holds more than tensors", tmp_path / "code.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    refused(r"tensor\.pth is no state dict", tmp_path / "tensor.pth")
    refused(
        r"resnet18\.pth is not of this encoder, whose layer1\.0\.conv1\.weight is "
        r"\(64, 64, 1, 1\) \(has it as \(64, 64, 3, 3\)\); choose the file",
        file,
        unet("resnet50"),
    )
    refused("UNet has no encoder for", file, UNet(width=2, depth=2))


def test_training_starts_from_the_file(
    dsb_root: Path, tmp_path: Path, published: nn.Module, file: Path
) -> None:
    """And neither a test nor a prediction asks for it again."""
    copy = tmp_path / "mine.pth"
    copy.write_bytes(file.read_bytes())
    weights = f"--model.net.encoder_weights={copy}"
    still = "--model.optimizer.lr=1e-12"
    assert main(smp_arguments(dsb_root, tmp_path / "runs", weights, still)) == 0
    copy.unlink()
    (run,) = (tmp_path / "runs").glob("*/*")
    assert str(copy) in (run / "config.yaml").read_text()
    task = load_task(run / "checkpoints/last.ckpt")
    learnt = task.net.encoder.state_dict()  # type: ignore[union-attr, operator]
    for name, value in published.named_parameters():
        if not name.startswith("fc."):
            torch.testing.assert_close(learnt[name], value)
    tested = ["test", f"--config={run / 'config.yaml'}", f"--run.root={tmp_path / 't'}"]
    assert main([*tested, f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]) == 0


@pytest.mark.parametrize("name", ["resnet18", "tu-tf_efficientnet_lite0"])
def test_a_hub_out_of_reach_is_said_with_the_remedy(
    name: str,
    dsb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", nobody)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between a hub's attempts
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    net = ["--model.net=segmentation.models.EncoderUNet", f"--model.net.encoder_name={name}"]
    argv = smp_arguments(dsb_root, tmp_path / "runs", *net, "--model.net.encoder_weights=imagenet")
    line = refusal(capsys, argv)
    assert "model.net.encoder_weights: they could not be fetched (" in line
    assert "set model.net.encoder_weights to it, or to null" in line
