"""Error messages of libraries, cut down to one line that says what is wrong and what to do."""

import logging
import re
import warnings

from segmentation.errors import first_of
from segmentation.terminal import verbose

_FEWER = "lower --data.batch_size, --data.crop or --data.num_workers"
# What PyTorch and Lightning say, as a pattern ► what it means and what to do; {}: what was found.
_MACHINE = {
    "Early stopping conditioned on metric.*?(?= Pass in)": (
        "{}: nothing was validated before the training ended; lower trainer.val_check_interval, "
        "or leave EarlyStopping out"
    ),
    "PytorchStreamWriter": "a checkpoint cannot be written; free space, or choose a --run.root",
    "Too many open files|received 0 items of ancdata": (
        "more files are open than this system allows, among them each tensor from a loading "
        "process; ulimit -n 4096 before the command, or --data.num_workers 0"
    ),
    r"unable to .*</torch_|workers are out of shared memory|Bus error": (
        "/dev/shm is full, where loading processes hand batches over; make it larger (docker run "
        "--shm-size 8g; Kubernetes: emptyDir of medium Memory), or take --data.num_workers 0"
    ),
    r"(CUDA|MPS|XPU) (error: |backend )?out of memory(\. Tried to allocate [\d.]+ \w+)?": (
        "{}: lower --data.batch_size or --data.crop, or take --trainer.precision bf16-mixed"
    ),
    "can't allocate memory.*?bytes": f"not enough memory ({{}}): {_FEWER}",
    r"DataLoader worker .*(signal: Killed|exited unexpectedly)": (
        "a loading process was killed, for want of memory or, in a container, of /dev/shm: "
        f"{_FEWER}, or start the container with --shm-size 8g"
    ),
}


def machine_gist(error: RuntimeError | OSError) -> str | None:
    """What to do where this machine cannot do what was asked of it, in one line.

    ``None`` for any other error, whose traceback somebody will have to read.
    """
    for pattern, remedy in _MACHINE.items():
        if found := re.search(pattern, str(error), re.DOTALL):
            return remedy.format(shortened(one_line(found[0])))
    return None


def root_cause(error: BaseException) -> str:
    """The text of :func:`first_of`."""
    error = first_of(error)
    return shortened(one_line(str(error.args[0]) if error.args else repr(error)))


def one_line(message: str) -> str:
    """A text without line breaks, indents and terminal colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).replace(" - ", " ").split())


def shortened(text: str, limit: int = 400) -> str:
    """A text of at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def silence_noise() -> None:
    """Leave out what Lightning says in every run, and need not."""
    for message in (
        "The dirpath has changed",  # a run's checkpoints are in its own folder
        "Checkpoint directory .* exists and is not empty",  # of a run that goes on
        r"It is recommended to use `self\.log\(.*sync_dist",  # scores are sums over processes
        "Be aware that when using `ckpt_path`",  # callbacks of the training, for its best weights
        ".*LeafSpec",  # Lightning itself, on torch 2.15
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed", *_STARTS):
        logging.getLogger(f"lightning.{name}").addFilter(_is_news)


# Lightning's loggers of how processes are started.
_STARTS = ("fabric.utilities.distributed", "pytorch.accelerators.cuda")
# What it tells in every run: of this machine, of its services, of what it does next.
_KNOWN = re.compile(
    r"Tip:|configure_callbacks|^Seed set|^(GPU|TPU|HPU|IPU) available|^LOCAL_RANK|Tensor Cores|"
    r"^Loading `train_dataloader`|`max_(epochs|steps)=.*reached|^Restoring states|^Restored all|"
    r"^Loaded model weights|^Initializing distributed|^-{9,}|^distributed_backend|^All distributed"
)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a note of Lightning's is of this run; with ``--verbose`` each is shown."""
    return verbose() or not _KNOWN.search(record.getMessage())
