"""Exact resume: a run that is interrupted at any moment goes on, and ends the same bit for bit.

After a checkpoint in the middle of an epoch Lightning would skip a validation that is due, forget
the epoch's means and the schedulers that wait for its end, and load in the first epoch's order.
"""

import os
import random
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from segmentation import __version__
from segmentation.data.samplers import TrainSampler
from segmentation.errors import UserError
from segmentation.io import sealed
from segmentation.io.files import writing
from segmentation.training.loggers import MetricsLogger, finish_preempted
from segmentation.training.run_folder import PREVIOUS, RESUME
from segmentation.training.signals import STATUS, handle

# What on_save_checkpoint keeps.
_STATE = {"processes", "over", "validating", "should_stop", "first", "hook", "metrics", "rows"}


class ExactResume(Callback):
    """Saves what an exact resume needs: on a signal, from time to time, and when training is over.

    A signal is acted on after the running batch, of training, validation or test, by all processes
    at the same one; before and between at once. What is saved is the state before a batch or before
    a validation: then, all that earlier batches have caused is done. Where gradients are
    accumulated, the step is completed first. Exact with three processes or more only under
    ``ddp_find_unused_parameters_true``: plain ``ddp`` adds gradients in another order after its
    first step. Must be the first callback, and within :func:`.signals.leaving`.

    Args:
        csv: ``metrics.csv``, which is cut back to the rows that the checkpoint knows.
        minutes: Between two checkpoints in training.
        keep: Write checkpoints at all.
    """

    def __init__(self, csv: MetricsLogger, minutes: float = 10.0, keep: bool = True) -> None:
        self.csv, self.seconds, self.keep = csv, 60 * minutes, keep
        self.asked = self.running = False
        self.state: dict[str, Any] | None = None  # to go on from, as loaded
        self._saving: dict[str, Any] | None = None  # the random state, while a checkpoint is made
        self._group: Any = None  # of processes that agree

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the signals over, from Lightning too, whose handlers talk to other processes."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        self._trainer = trainer
        handle(self._on_signal)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.running = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first and (launcher := self._trainer.strategy.launcher) is not None:
            launcher.kill(number)  # hand it on to the processes that Lightning started
        if not self.running:
            raise SystemExit(_status(self._trainer))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._resumed(trainer)
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients wait for their step, and they are not saved
        due = trainer.is_global_zero and time.monotonic() - self._saved >= self.seconds
        what = self._agreed(trainer, 2 if self.asked else int(due and self.keep))
        if what:
            self._save(trainer, random_state())
        if what == 2:
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._resumed(trainer)
            self._rng = random_state()
            self._begin(trainer, trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        if self._interrupted(trainer, fitting and trainer.fit_loop._should_accumulate()):
            if fitting:
                for average in _averages(trainer):  # back to the weights that learn
                    average.on_validation_epoch_end(trainer, trainer.lightning_module)
                self._save(trainer, self._rng)
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.running = False  # a search that follows has no batches to wait for
            if self._agreed(trainer, self.asked):
                self._stop(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, trainer.num_test_batches)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._interrupted(trainer):
            self._stop(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.running = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over: what starts again from here only tests."""
        self._save(trainer, random_state(), over=True)
        if self._agreed(trainer, self.asked):
            self._stop(trainer)
        self.running = False

    def _begin(self, trainer: Trainer, batches: list[int | float]) -> None:
        """Shares may be uneven: agree as often as the smallest lasts."""
        self.running = True
        self._rounds = -self._agreed(trainer, -int(sum(batches)))

    def _interrupted(self, trainer: Trainer, waits: bool = False) -> bool:
        """Whether a process was asked to stop; asked after each batch of an evaluation."""
        if trainer.sanity_checking:
            return False
        self._rounds -= 1
        return self._rounds >= 0 and not waits and self._agreed(trainer, self.asked) > 0

    def _agreed(self, trainer: Trainer, value: int) -> int:
        """The largest value of all processes."""
        if trainer.world_size == 1:
            return int(value)
        if self._group is None:  # on the CPU: asking a GPU would wait for all it has to do
            self._group = torch.distributed.new_group(backend="gloo")
        tensor = torch.tensor(int(value))
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(tensor)

    def _save(self, trainer: Trainer, rng: dict[str, Any], over: bool = False) -> None:
        if self.keep:
            self._saving = {"rng": rng, "over": over}
            path = os.path.join(trainer.default_root_dir, "checkpoints", RESUME)
            trainer.save_checkpoint(path, weights_only=False)  # said, or Lightning remarks on it
            self._saving, self._saved = None, time.monotonic()

    def _stop(self, trainer: Trainer) -> NoReturn:
        if trainer.is_global_zero:
            finish_preempted()  # now: the launcher may end this process once another has ended
            print("interrupted; start the same command with --run.resume=true to go on", flush=True)
        trainer.strategy.barrier()
        raise SystemExit(_status(trainer))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._saving is None:
            return  # the best, the last: not ours
        buffers = [{n: b.cpu() for n, b in m.named_buffers()} for m in _modules(trainer)]
        mine = {"rng": self._saving["rng"], "buffers": buffers, "means": _means(trainer)}
        processes: list[Any] = [mine]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, mine)
        connector, epoch_loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
        loops, over = checkpoint["loops"]["fit_loop"], self._saving["over"]
        if trainer.validating:
            # As if one validation batch had begun: Lightning then begins with the validation.
            none = dict.fromkeys(("ready", "completed", "started", "processed"), 0)
            progress = {"total": none | {"ready": 1, "started": 1}, "current": none}
            loops["epoch_loop.val_loop.batch_progress"] |= progress | {"is_last_batch": False}
        elif not over and not epoch_loop._should_accumulate():
            # Counted anew when Lightning sees that a batch was begun and not ended.
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
        names = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")
        metrics = {
            name: {key: torch.as_tensor(v).cpu() for key, v in getattr(connector, name).items()}
            for name in names
        }
        checkpoint["resume"] = {
            "processes": processes,
            "over": over,
            "validating": trainer.validating,
            "should_stop": trainer.should_stop,
            "first": connector._first_loop_iter,
            "hook": connector._current_fx,
            "metrics": metrics,
            "rows": self.csv.flushed() if trainer.is_global_zero else 0,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.state = checkpoint.get("resume")
        version = checkpoint["segmentation"].get("version", "0.1.0 or older")
        if self.state is not None and version != __version__:
            raise UserError(
                f"the run was interrupted under version {version}, this is {__version__}: only the "
                "same version goes on exactly; install it, or begin anew from the weights with "
                f"--run.weights {trainer.ckpt_path} and without --run.resume"
            )
        known = self.state if isinstance(self.state, dict) else ()
        if self.state is not None and not {*known} >= _STATE:
            raise UserError(f"{trainer.ckpt_path}: nothing to resume from; do not use this file")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.csv.experiment.keep(self.state["rows"] if self.state else 0)
        if self.state is None:
            return
        if self.state["over"]:
            trainer.should_stop = self.state["should_stop"]
        # The validation after the last step is still due: Lightning would not begin at all.
        self._max_steps = trainer.fit_loop.epoch_loop.max_steps
        if self.state["validating"]:
            trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.running, self._saved = True, time.monotonic()
        if self.state is None:
            return
        loop, connector = trainer.fit_loop, trainer._logger_connector
        mine = self.state["processes"][trainer.global_rank]
        for module, stored in zip(_modules(trainer), mine["buffers"], strict=True):
            for name, buffer in module.named_buffers():
                buffer.copy_(stored[name])
        _set_means(trainer, mine["means"])
        for name, values in self.state["metrics"].items():
            setattr(connector, name, {k: v.to(pl_module.device) for k, v in values.items()})
        connector._first_loop_iter = False
        loader: Any = trainer.train_dataloader
        if isinstance(sampler := getattr(loader, "sampler", None), TrainSampler):
            epoch: Any = loop.epoch_progress.current
            done = loop.epoch_loop.batch_progress.current.completed * loader.batch_size
            sampler.skip(epoch.processed, done)
            # Its workers have fetched ahead already: from the start, in the first epoch's order.
            iter(loop._data_fetcher)  # type: ignore[arg-type]

    def _resumed(self, trainer: Trainer) -> None:
        """At the very moment at which the checkpoint was made."""
        if self.state is None:
            return
        state, self.state = self.state, None
        if (bar := trainer.progress_bar_callback) is not None:  # for it, no epoch has begun yet
            bar.on_train_epoch_start(trainer, trainer.lightning_module)
        loop = trainer.fit_loop
        loop._restarting = False  # or the epoch's end would leave out schedulers that watch a score
        loop.epoch_loop.max_steps = self._max_steps
        trainer.should_stop = state["should_stop"]
        if state["validating"]:
            # Or the batch counted as begun would be missing to the end of the epoch, and the next
            # checkpoint would seem to come from within a validation, too.
            loop.epoch_loop.val_loop.batch_progress.total.reset()
        else:
            connector = trainer._logger_connector
            connector._first_loop_iter, connector._current_fx = state["first"], state["hook"]
            total: Any = loop.epoch_loop.batch_progress.total
            total.ready = total.started + 1  # the batch was begun twice
        set_random_state(state["processes"][trainer.global_rank]["rng"])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.state is not None and self.state["over"]:  # there was nothing left to train
            self.state = None
            for average in _averages(trainer):
                average.on_train_end(trainer, pl_module)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole and sealed, not half a file; keeps two to resume from."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        with writing(target) as file:
            sealed.dump(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
            if target.name == RESUME and target.exists():
                target.replace(target.with_name(PREVIOUS))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        checkpoint: dict[str, Any] = sealed.read(Path(path))
        return checkpoint


def random_state() -> dict[str, Any]:
    """The global generators of Python, NumPy, PyTorch and this process's GPU, as plain values."""
    name, key, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    state |= {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return state | {"numpy": (name, np.asarray(key).tolist(), *rest)}


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _means(trainer: Trainer) -> list[dict[str, Any]]:
    """What ``self.log`` has gathered in this epoch so far; metric objects keep theirs."""
    means = []
    for metric in trainer.fit_loop.epoch_loop._results.values():
        if metric.is_tensor:
            meta = metric.meta
            log = {k: value for k, value in vars(meta).items() if isinstance(value, str | bool)}
            log |= {"sync_dist": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}
            log["reduce_fx"] = meta.reduce_fx.__name__
            values = {name: getattr(metric, name).cpu() for name in metric._defaults}
            means.append({"log": log, "values": values, "has_reset": metric.has_reset})
    return means


def _set_means(trainer: Trainer, means: list[dict[str, Any]]) -> None:
    """Register each by the call that `self.log` makes, then set it to what was stored."""
    results, device = trainer.fit_loop.epoch_loop._results, trainer.strategy.root_device
    zero, reduce = torch.zeros((), device=device), trainer.strategy.reduce
    for mean in means:
        results.log(value=zero, sync_dist_fn=reduce, **mean["log"])
        metric = results[f"{mean['log']['fx']}.{mean['log']['name']}"]
        metric._computed, metric.has_reset = None, mean["has_reset"]
        for name, value in mean["values"].items():
            setattr(metric, name, value.to(device))


def _averages(trainer: Trainer) -> list[WeightAveraging]:
    return [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]


def _modules(trainer: Trainer) -> list[torch.nn.Module]:
    """Those whose buffers (batch norm's statistics, counts) each process has of its own."""
    averages = [callback._average_model for callback in _averages(trainer)]
    return [trainer.lightning_module, *(average for average in averages if average is not None)]


def _status(trainer: Trainer) -> int:
    """Lightning kills its first process when another that it started ends with an error."""
    environment = getattr(trainer.strategy.launcher, "cluster_environment", None)
    started = environment is not None and not environment.creates_processes_externally
    return 0 if started and not trainer.is_global_zero else STATUS
