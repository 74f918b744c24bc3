"""Pretrained weights of an encoder of segmentation-models-pytorch, from a file."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.io import sealed

SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
HUBS = {"huggingface_hub", "httpx", "httpcore", "requests", "urllib3", "urllib", "socket", "ssl"}


def is_file(weights: object) -> bool:
    """Whether a value of ``encoder_weights`` is a file rather than a name like "imagenet"."""
    return isinstance(weights, str) and Path(weights).suffix in SUFFIXES


def unreachable(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is of a hub or the network on the way there."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in HUBS:
            return True
        error = error.__cause__ or error.__context__
    return False


def load_encoder(net: nn.Module, path: str | Path) -> None:
    """Start a network's ``encoder`` from weights that timm, torchvision or smp published.

    The file is a state dict, of torch.save or safetensors. Tensors that the encoder lacks (the
    classifier's) are left out; weights for three channels are adapted, see :func:`adapt_channels`.
    A file that cannot be read, lacks a tensor or has one of another shape is a :class:`UserError`.
    """
    option = "model.net.encoder_weights"
    encoder = getattr(net, "encoder", None)
    if not isinstance(encoder, nn.Module) or isinstance(encoder, nn.ModuleList):
        raise UserError(
            f"{option}: {type(net).__name__} has no encoder for {path}; leave it out, or choose a "
            "network of segmentation_models_pytorch"
        )
    state = read_state_dict(Path(path), option)
    theirs = {_plain(name): value for name, value in state.items()}
    fitting: dict[str, Tensor] = {}
    for name, own in encoder.state_dict().items():
        found = theirs.get(_plain(name.removeprefix("model.")))  # of timm's, within smp's wrapper
        found = adapt_channels(found, own) if isinstance(found, Tensor) else found
        if isinstance(found, Tensor) and found.shape == own.shape:
            fitting[name] = found
        elif not name.endswith("num_batches_tracked"):  # which old files lack
            fault = f"has it as {tuple(found.shape)}" if isinstance(found, Tensor) else "lacks it"
            raise UserError(
                f"{option}: {path} is not of this encoder, whose {name} is {tuple(own.shape)} "
                f"({fault}); choose the file published for its encoder_name"
            )
    # Not load_state_dict of smp's encoders: some answer nothing and expect a classifier.
    nn.Module.load_state_dict(encoder, fitting, strict=False)


def adapt_channels(weights: Tensor, own: Tensor) -> Tensor:
    """A first convolution's weights for three channels as those for ``own``'s number.

    As segmentation-models-pytorch does: summed for one channel; else repeated in turn, and scaled
    by 3 / channels. Others are returned as they are.
    """
    (_, theirs, *window), (_, count, *wanted) = weights.shape + (0,) * 2, own.shape + (0,) * 2
    if weights.ndim != 4 or theirs != 3 or count == 3 or window != wanted:
        return weights
    if count == 1:
        return weights.sum(1, keepdim=True)
    return weights[:, [i % 3 for i in range(count)]] * (3 / count)


def _plain(name: str) -> str:
    """timm flattens ``stages.0`` to ``stages_0`` where features alone are asked for."""
    return re.sub(r"_(?=\d)", ".", name)


def read_state_dict(path: Path, option: str) -> dict[str, Any]:
    """Read published weights, as tensors only; ``option`` named the file, for the message."""
    if not path.is_file():
        raise UserError(f"{option}: {path} is no file; name one, or imagenet, or null")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # of smp's dependencies; few need it

            return dict(load_file(path))
        state = sealed.read(path)
        fault = "" if isinstance(state, dict) else f"{path} is no state dict"
    except UserError as error:
        fault = str(error)
    except Exception:  # on a broken file its parser raises whatever it trips over
        fault = f"{path}: broken"
    # Raised behind the handlers: the command line tells the first of a chain of errors.
    if fault:
        raise UserError(f"{option}: {fault}; use the file that was published")
    return dict(state)
