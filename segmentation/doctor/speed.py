"""How fast this machine trains: a small U-Net on synthetic crops, for a few seconds."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from segmentation.data.splits import RandomSplit
from segmentation.datasets.dsb2018 import DSB2018DataModule
from segmentation.datasets.synthetic import write_dsb2018
from segmentation.models import UNet
from segmentation.training.memory import keep_freed_memory

FULL = "32-true"
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

Rates = dict[tuple[int, str], float]  # images a second by batch size and precision


class Advice(NamedTuple):
    """What was fastest, in the words of the command line."""

    batch_size: int
    num_workers: int
    precision: str

    def __str__(self) -> str:
        return (
            f"--data.batch_size {self.batch_size} --data.num_workers {self.num_workers} "
            f"--trainer.precision {self.precision}"
        )


def measure(
    seconds: float, cores: int, say: Callable[[str], None], crop: int = 256, width: int = 16
) -> Advice:
    """Time training steps, then whole trainings with loading processes, and choose.

    Args:
        seconds: To spend, about; what has not had its turn by then is left out.
        cores: That this process may use.
        say: Gets the lines of the report.
        crop: Side of the crops in pixels.
        width: Of the U-Net, which has five levels.

    Raises:
        RuntimeError: The device does not compute.
    """
    keep_freed_memory()
    start = time.monotonic()
    device, precisions, sizes = _device()
    trainer = _Trainer(UNet(3, 1, width).to(device), device)
    say(f"{'images/s':12}" + "".join(f"{name:>12}" for name in precisions))
    rates: Rates = {}
    for size in sizes:
        for precision in precisions:
            left = start + seconds / 2 - time.monotonic()
            if rates and (left < _two_steps(rates, size) or _hopeless(rates, size, precision)):
                continue
            try:
                turn = min(left, seconds / 2 / len(sizes) / len(precisions))
                rates[size, precision] = trainer.rate(_fixed(size, crop), precision, turn)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        row = [rates.get((size, precision)) for precision in precisions]
        if any(row):
            cells = "".join(f"{'–' if r is None else format(r, '.1f'):>12}" for r in row)
            say(f"{f'batch {size}':12}{cells}")
    size, precision = choose(rates)
    with TemporaryDirectory() as folder:
        data = _data(Path(folder), size, crop)
        counts = [n for n in (0, 1, 2, 4, 8, 16) if n <= cores]
        by_workers: dict[int, float] = {}
        for i, data.num_workers in enumerate(counts):
            left = start + seconds - time.monotonic()
            if left < _two_steps(rates, size):
                say(f"no time to try {', '.join(map(str, counts[i:]))} loading processes")
                break
            turn = left / (len(counts) - i)
            by_workers[data.num_workers] = trainer.rate(_loaded(data), precision, turn)
    if not by_workers:  # steps of seconds: one process keeps up with them
        return Advice(size, min(1, cores - 1), precision)
    say("".join(f"{f'{n} processes':>14}" for n in by_workers))
    say("".join(f"{rate:14.1f}" for rate in by_workers.values()))
    return Advice(size, fewest(by_workers), precision)


def choose(rates: Rates) -> tuple[int, str]:
    """The batch size and precision to train at.

    Half precision has to be worth 10 % to be chosen. The batch is the smallest within 5 % of the
    best: at equal speed, more steps an epoch learn more.
    """
    best = {p: max(r for (_, q), r in rates.items() if q == p) for _, p in rates}
    precision = max(best, key=lambda p: best[p] / (1 if p == FULL else 1.1))
    return fewest({size: r for (size, p), r in rates.items() if p == precision}), precision


def fewest(rates: dict[int, float]) -> int:
    """The smallest number whose rate is within 5 % of the best."""
    return min(n for n, rate in rates.items() if rate >= 0.95 * max(rates.values()))


def _two_steps(rates: Rates, size: int) -> float:
    """Seconds that two steps should take, the least that can be timed."""
    return 2 * size / max(rates.values())


def _hopeless(rates: Rates, size: int, precision: str) -> bool:
    """Whether it was less than half as fast as full precision at the size before."""
    before = [s for s, p in rates if p == precision and s < size]
    if not before:
        return any(s < size for s, _ in rates)  # it did not fit into memory, or had no time
    return rates[max(before), precision] < 0.5 * rates.get((max(before), FULL), 0)


def _device() -> tuple[torch.device, tuple[str, ...], tuple[int, ...]]:
    """What there is to train on, in which precisions and batch sizes."""
    if torch.cuda.is_available():
        half = "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
        return torch.device("cuda"), (FULL, half), (4, 8, 16, 32, 64, 128)
    if torch.backends.mps.is_available():
        return torch.device("mps"), (FULL,), (4, 8, 16, 32)
    # Without instructions for it bfloat16 is emulated: a step may take a hundred times as long.
    halves = ("bf16-mixed",) if has_bf16(Path("/proc/cpuinfo")) else ()
    return torch.device("cpu"), (FULL, *halves), (4, 8, 16)


def has_bf16(cpuinfo: Path) -> bool:
    """Whether the processor multiplies bfloat16: AVX-512 BF16, AMX, or ARM's BF16."""
    try:
        return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text()))
    except OSError:
        return False


def _fixed(size: int, crop: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batch for ever: nothing is loaded."""
    image = torch.randint(256, (size, 3, crop, crop), dtype=torch.uint8)
    batch = image, image[:, 0] > 127
    while True:
        yield batch


def _data(folder: Path, size: int, crop: int) -> DSB2018DataModule:
    """Synthetic nuclei, and a recipe as the configs have it."""
    write_dsb2018(folder, images=6, size=(crop * 5 // 4, crop * 5 // 4))
    data = DSB2018DataModule(
        str(folder),
        RandomSplit(val=1, test=1, stratify=False),
        crop=crop,
        zoom=(0.7, 1.5),
        length=20_000,
        batch_size=size,
        cache=str(folder),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def _loaded(data: DSB2018DataModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as a training gets them."""
    for batch in data.train_dataloader():
        yield batch["image"], batch["target"]


class _Trainer:
    """Steps of AdamW, as ``fit`` makes them."""

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        self.net, self.device = net, device
        self.optimizer = torch.optim.AdamW(net.parameters(), fused=device.type == "cuda")

    def rate(
        self, batches: Iterator[tuple[Tensor, Tensor]], precision: str, seconds: float
    ) -> float:
        """Images a second, without the first step, which sets everything up.

        Nor does the wait for the first batch count: processes that load take seconds to start.
        """
        scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "16-mixed")
        images = 0
        start = end = 0.0
        for steps, (image, target) in enumerate(batches):
            if steps == 0:
                start = time.perf_counter()
            self._step(image, target, precision, scaler)
            now = time.perf_counter()
            if steps == 0 and now - start < seconds:
                start = now
            else:
                images, end = images + len(image), now
            if images and end - start >= seconds:
                break
        return images / (end - start)

    def _step(
        self, image: Tensor, target: Tensor, precision: str, scaler: torch.amp.GradScaler
    ) -> None:
        kind, dtype = self.device.type, AUTOCAST.get(precision)
        inputs = image.to(self.device, non_blocking=True).float().div_(255)
        truth = target.to(self.device, non_blocking=True).view(len(image), 1, *image.shape[2:])
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            loss = binary_cross_entropy_with_logits(self.net(inputs), truth.float())
        self.optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(self.optimizer)
        scaler.update()
        loss.item()  # waits for the device
