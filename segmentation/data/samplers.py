"""Which sample comes when: decided by (seed, epoch) alone, whatever the number of processes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch.utils.data import DistributedSampler

from segmentation.data.cache import StoredSample


@dataclass(frozen=True)
class Sampling:
    """Which training images are drawn, and how often.

    Attributes:
        balance: 0 shows each image once an epoch. Above 0 images are drawn at random with
            probability ∝ (pixels / images of its kind) ^ balance: rare kinds and large images more
            often. 0.5 evens kinds out by the square root. Annotated pixels are counted.
        balance_empty: Draw images with and without objects equally often.
        length: Draws per epoch; the number of training examples by default.
        seed: Of order, crops and augmentation, ≥ 0; ``null`` takes ``seed_everything``'s.
        copy_paste: Probability, 0…1, that objects of another training image of the same kind are
            pasted into a window; see :class:`segmentation.data.copy_paste.CopyPaste`.
        balance_by: ``source`` balances what images were acquired with (see ``SourceSplit``) in the
            place of their kinds: a source of few images counts for more.
    """

    balance: float = 0.0
    balance_empty: bool = False
    length: int | None = None
    seed: int | None = None
    copy_paste: float = 0.0
    balance_by: Literal["kind", "source"] = "kind"

    def weights(
        self,
        entries: Sequence[StoredSample],
        more: Mapping[str, float] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> list[float] | None:
        """How often each example is drawn, relative to the others; ``None``: each once.

        ``more`` multiplies that of the ids it names. ``sources`` (id ► source) are balanced
        in the place of kinds, where they are given.
        """
        if self.balance == 0 and not self.balance_empty and not more:
            return None
        groups = [e.kind if sources is None else sources[e.id] for e in entries]
        counts = Counter(groups)
        sizes = [np.prod(entry.image[1][:2]) - entry.unannotated for entry in entries]
        pixels = [size / counts[group] for size, group in zip(sizes, groups, strict=True)]
        weights = np.array(pixels, dtype=float) ** self.balance
        empty = np.array([entry.objects == 0 for entry in entries])
        if self.balance_empty and empty.any() and not empty.all():
            for half in (empty, ~empty):
                weights[half] /= weights[half].sum()
        if more:
            weights *= [more.get(entry.id, 1.0) for entry in entries]
        return [float(weight) for weight in weights]


@dataclass(frozen=True, slots=True)
class Draw:
    """One training example: together with the run's seed it decides every pixel."""

    index: int  # of the sample, in its part of the split
    epoch: int  # from 0
    repeat: int  # how often this index was drawn before in this epoch

    def rng(self, seed: int) -> np.random.Generator:
        """The source of every random number of this example in the run with this ``seed``."""
        words = [seed, self.epoch, self.index, self.repeat]
        # Larger numbers are several words; NumPy finds the words of a list one by one, in 5 µs.
        return np.random.default_rng(np.array(words, np.uint32) if max(words) < 2**32 else words)


class TrainSampler(DistributedSampler[Draw]):
    """Shuffled draws, dealt out to the processes in turn.

    One order is drawn for all processes, and process r of w takes the places r, r + w, …: the same
    samples meet in the same step on 1 or 4 devices, as long as the global batch is the same. The
    epoch travels inside each draw because workers that persist never see ``set_epoch``.

    Args:
        size: Number of samples, ≥ 1.
        seed: Of the run, ≥ 0.
        weights: Relative probability of each sample (drawn with replacement); ``None`` takes each
            once.
        length: Draws per epoch, over all processes; ``size`` by default. More are drawn for equal
            shares of the processes, which DDP needs in training.
        rank, world_size: Of this process, and the number of processes.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        length: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(range(size), world_size, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.size, self.weights = size, weights
        self.length = -(-(length or size) // world_size) * world_size
        self.done = (0, 0)  # an epoch, and how many draws of each process it leaves out

    def order(self) -> list[int]:
        """This epoch's indices for all processes together."""
        # Five words: with fewer, zeros are filled in, and this would be sample 0's stream too.
        rng = np.random.default_rng([self.seed, self.epoch, 0, 0, 1])
        if self.weights is not None:
            p = np.asarray(self.weights, float)
            return [int(i) for i in rng.choice(self.size, self.length, p=p / p.sum())]
        rounds = -(-self.length // self.size)
        return [int(i) for _ in range(rounds) for i in rng.permutation(self.size)][: self.length]

    def __iter__(self) -> Iterator[Draw]:
        seen = Counter[int]()
        epoch, done = self.done
        first = done * self.num_replicas if epoch == self.epoch else 0
        for place, index in enumerate(self.order()):
            if place >= first and place % self.num_replicas == self.rank:
                yield Draw(index, self.epoch, seen[index])
            seen[index] += 1

    def skip(self, epoch: int, draws: int) -> None:
        """Leave out the first draws of each process in this epoch: they were trained on."""
        self.set_epoch(epoch)
        self.done = (epoch, draws)

    def __len__(self) -> int:
        """Draws of this process per epoch, those that are left out included."""
        return self.length // self.num_replicas
