"""U-Net++ with deep supervision and pruning."""

import math
from itertools import islice, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmentation.models.blocks import (
    ConvBlock,
    SegmentationNet,
    check_depth,
    check_positive,
    init_weights,
    upsample,
)

Mode = Literal["accurate", "fast"]


class UNetPlusPlus(SegmentationNet):
    """U-Net++ (Zhou et al. 2018, arXiv:1807.10165, and 2019, arXiv:1912.05074).

    Node X(i, j) sits at resolution i (0 is full) and column j. X(i, 0) is the encoder; X(i, j >= 1)
    takes all earlier nodes of its row and X(i + 1, j - 1), upsampled. Head `level` reads
    X(0, level), which needs only the nodes with i + j <= level: that part alone is the papers'
    "U-Net++ L`level`".

    Every convolution is Conv3x3, ReLU, batch norm, in this order, so convolutions keep their bias:
    at the default size 32,050,244 parameters, as in the Keras implementation it follows.

    A pruned network has no form of its own: L2 is `depth=3, deep_supervision=False` with the other
    arguments unchanged, and its parameters have the same names in both.

    Args:
        classes: channels of the logits; probabilities are a sigmoid if 1, else a softmax.
        width: channels at full resolution; each level below has twice as many.
        depth: number of resolutions, at least 2; there are `depth - 1` heads.
        convs_per_block: convolutions of an encoder node.
        convs_per_node: convolutions of a decoder node (the papers have 2).
        deep_supervision: a head on every X(0, level >= 1); otherwise on the last alone.
        mode: what a deeply supervised network answers in evaluation: "accurate" averages the
            probabilities of all heads, "fast" computes one head and only the nodes that it needs.
        head: in mode "fast", which head, 1 to depth - 1; None for the last.

    Raises:
        ValueError: for arguments out of range, or a head that mode "accurate" would ignore.

    >>> UNetPlusPlus(width=8, depth=3).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        width: int = 64,
        depth: int = 5,
        convs_per_block: int = 2,
        convs_per_node: int = 1,
        deep_supervision: bool = True,
        mode: Mode = "accurate",
        head: int | None = None,
    ) -> None:
        check_positive(width=width, convs_per_block=convs_per_block, convs_per_node=convs_per_node)
        check_depth(depth, least=2)  # heads start at X(0, 1)
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        super().__init__(in_channels, classes, stride=2 ** (depth - 1))
        self.width, self.depth, self.deep_supervision = width, depth, deep_supervision
        self.convs_per_block, self.convs_per_node = convs_per_block, convs_per_node
        self.mode: Mode = mode  # may be set anew once validation has shown the best head
        self.head = head
        channels = [width * 2**i for i in range(depth)]
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList()
        for inputs, outputs in pairwise((in_channels, *channels)):
            self.encoder.append(ConvBlock(inputs, outputs, convs_per_block, norm="after_relu"))
        self.ups, self.nodes = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, depth):
            for i in range(depth - j):
                inputs = channels[i] * (j + 1)  # j earlier nodes of the row and the one from below
                self.ups[f"{i}_{j}"] = upsample(channels[i + 1], channels[i])
                self.nodes[f"{i}_{j}"] = ConvBlock(
                    inputs, channels[i], convs_per_node, norm="after_relu"
                )
        # Heads are named by level, so that a pruned network's parameters keep their names.
        levels = range(1 if deep_supervision else depth - 1, depth)
        self.heads = nn.ModuleDict({str(i): nn.Conv2d(width, classes, 1) for i in levels})
        if head is not None:
            self._check_level(head)
            if mode == "accurate" and deep_supervision:
                raise ValueError(f"head={head} is used in mode 'fast' only, mode is 'accurate'")
        self.apply(init_weights)

    @property
    def levels(self) -> list[int]:
        """The levels that have a head, shallow to deep."""
        return [int(level) for level in self.heads]

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """In training with deep supervision a list: the logits of each head, shallow to deep."""
        if not self.deep_supervision:
            return self._one_head(image, self.depth - 1)
        if self.training:
            return self.head_logits(image)
        if self.mode == "fast":
            return self._one_head(image, self.depth - 1 if self.head is None else self.head)
        return mean_probability_logits(self.head_logits(image))

    def head_logits(self, image: Tensor) -> list[Tensor]:
        """The logits of every head, shallow to deep, whatever the mode."""
        row = self._first_row(image, self.depth - 1)
        return [self.heads[str(level)](row[level]) for level in self.levels]

    def pruned(self, level: int) -> "UNetPlusPlus":
        """Copy out U-Net++ L`level`: head `level` and what it needs, nothing else.

        The new network, of depth `level + 1` and without deep supervision, answers exactly what
        head `level` does and takes inputs of the smaller `stride` as well. A `level` without a head
        (see `levels`) is a `ValueError`.
        """
        self._check_level(level)
        # All values come from this network: on "meta" no memory or random numbers are spent first.
        with torch.device("meta"):
            convs = self.convs_per_block, self.convs_per_node
            sizes = self.in_channels, self.classes, self.width, level + 1
            net = UNetPlusPlus(*sizes, *convs, deep_supervision=False)
        state = self.state_dict()
        net.load_state_dict({name: state[name].clone() for name in net.state_dict()}, assign=True)
        return net.train(self.training)

    def _one_head(self, image: Tensor, level: int) -> Tensor:
        self._check_level(level)
        logits: Tensor = self.heads[str(level)](self._first_row(image, level)[level])
        return logits

    def _first_row(self, image: Tensor, level: int) -> list[Tensor]:
        """Compute X(0, 0) to X(0, level), each (N, width, H, W)."""
        blocks = islice(self.encoder, level + 1)
        rows = [[x] for x in self.contract(image, blocks, self.pool)]  # rows[i][j] is X(i, j)
        for j in range(1, level + 1):
            for i in range(level - j + 1):
                below = self.ups[f"{i}_{j}"](rows[i + 1][j - 1])
                rows[i].append(self.nodes[f"{i}_{j}"](torch.cat([*rows[i], below], dim=1)))
        return rows[0]

    def _check_level(self, level: int) -> None:
        if level not in self.levels:
            raise ValueError(f"there is no head {level}, only {self.levels}")


def mean_probability_logits(heads: list[Tensor]) -> Tensor:
    """Logits whose probabilities are the mean of the heads' probabilities, float32 at least.

    Of logits (N, C, H, W) the logit of the mean sigmoid if C is 1, else the logarithm of the mean
    softmax. Both stay in log space, so confident heads do not turn into infinities.
    """
    logits = torch.stack(heads)  # (K, N, C, H, W)
    # Half precision (autocast) cannot tell a probability of .9999 from 1.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.shape[2] == 1:
        # log(mean p) - log(mean (1 - p)); the two log K cancel.
        foreground = F.logsigmoid(logits).logsumexp(dim=0)
        return foreground - F.logsigmoid(-logits).logsumexp(dim=0)
    return F.log_softmax(logits, dim=2).logsumexp(dim=0) - math.log(len(heads))
