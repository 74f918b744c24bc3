"""SIGTERM, SIGUSR1 and power cuts: a run stops where it is, and goes on from there bit for bit."""

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.training.resume import (
    AtomicCheckpointIO,
    ContinuedCSVLogger,
    process_state,
    random_state,
    set_process_state,
    set_random_state,
    skip_batches,
)
from segmentation.training.run_folder import FILE
from segmentation.training.run_logger import stopped_by_server
from segmentation.training.signals import SIGNALS, STATUS
from segmentation.training.tracking import Tracking


class Preemption(Callback):
    """Saves what an exact resume needs: on a signal, from time to time, and when training is over.

    A signal is acted on after the running batch, of training, validation or test, by all processes
    at the same one; before and between at once. In training there is a checkpoint then; validation
    begins again from the state before it; where gradients are accumulated, the step is completed.

    The state is that before a batch, or before a validation: the only moments at which everything
    that the batches before have caused is done. Lightning by itself would, after a checkpoint in
    the middle of an epoch, skip a validation that is due, forget the sums of the epoch's means and
    the scheduler that waits for its end, and begin with the first epoch's order in the workers.

    With three processes or more it is exact under ``ddp_find_unused_parameters_true``: plain
    ``ddp`` changes the order in which gradients are added up after its first step.

    Must be the first of the callbacks.

    Args:
        minutes: Between two checkpoints in training.
        keep: Write checkpoints at all.
    """

    def __init__(self, minutes: float = 10.0, keep: bool = True) -> None:
        self.seconds, self.keep = 60 * minutes, keep
        self.asked = self.running = False
        self.state: dict[str, Any] | None = None  # to go on from, as loaded
        self._saving: dict[str, Any] | None = None  # the random state, while a checkpoint is made
        self._handlers: dict[int, Any] = {}
        self._group: Any = None  # of processes that agree

    # Signals

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the signals over, from Lightning too, whose handlers talk to other processes."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        self._trainer = trainer
        with contextlib.suppress(ValueError):  # not the main thread
            for number in SIGNALS:
                handler = signal.signal(number, self._on_signal)
                self._handlers.setdefault(number, handler)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def _release(self) -> None:
        self.running = False
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        if first and (launcher := self._trainer.strategy.launcher) is not None:
            launcher.kill(number)  # hand it on to the processes that Lightning started
        if not self.running:
            raise SystemExit(self._status(self._trainer))

    # When to save and to stop

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
        if trainer.sanity_checking:
            return
        self._resumed(trainer)
        self._rng = random_state()
        self._begin(trainer, trainer.num_val_batches)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or batch_idx >= self._rounds:
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting and trainer.fit_loop._should_accumulate():
            return
        if self._agreed(trainer, 2 * self.asked):
            if fitting:
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, WeightAveraging):  # back to the weights that learn
                        callback.on_validation_epoch_end(trainer, pl_module)
                self._save(trainer, self._rng)
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.running = False  # a search that follows has no batches to wait for
            if self._agreed(trainer, 2 * self.asked):
                self._stop(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, trainer.num_test_batches)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx < self._rounds and self._agreed(trainer, 2 * self.asked):
            self._stop(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.running = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over: what starts again from here only tests."""
        self._save(trainer, random_state(), over=True)
        if self._agreed(trainer, 2 * self.asked):
            self._stop(trainer)
        self.running = False

    def _begin(self, trainer: Trainer, batches: list[int | float]) -> None:
        """Shares may be uneven: agree as often as the smallest lasts."""
        self.running = True
        self._rounds = -self._agreed(trainer, -int(sum(batches)))

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
        if not self.keep:
            return
        self._saving = {"rng": rng, "over": over}
        try:
            path = os.path.join(trainer.default_root_dir, "checkpoints", FILE)
            trainer.save_checkpoint(path, weights_only=False)  # said, or Lightning remarks on it
        finally:
            self._saving = None
        self._saved = time.monotonic()

    def _stop(self, trainer: Trainer) -> NoReturn:
        wandb = sys.modules.get("wandb")
        if trainer.is_global_zero and wandb is not None and (own := wandb.run) is not None:
            # Only W&B's agent may have been told to end it.
            if "WANDB_SWEEP_ID" not in os.environ or not stopped_by_server(own):
                wandb.mark_preempting()
            # Now, for the launcher may end this process as soon as another has ended.
            wandb.finish(exit_code=STATUS)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            print("interrupted; start the same command with --run.resume=true to go on", flush=True)
        raise SystemExit(self._status(trainer))

    @staticmethod
    def _status(trainer: Trainer) -> int:
        """Lightning kills its first process when another that it started ends with an error."""
        launcher = trainer.strategy.launcher
        external = getattr(launcher, "cluster_environment", None)
        own = external is not None and not external.creates_processes_externally
        return 0 if own and not trainer.is_global_zero else STATUS

    # What is saved

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._saving is None:
            return  # the best, the last: not ours
        mine = process_state(trainer, pl_module, self._saving["rng"])
        processes: list[Any] = [mine]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, mine)
        connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
        loops = checkpoint["loops"]["fit_loop"]
        validating = trainer.validating
        if validating:
            # As if one validation batch had begun: Lightning then begins with the validation.
            none = dict.fromkeys(("ready", "completed", "started", "processed"), 0)
            progress = {"total": none | {"ready": 1, "started": 1}, "current": none}
            loops["epoch_loop.val_loop.batch_progress"] |= progress | {"is_last_batch": False}
        elif not self._saving["over"] and not loop._should_accumulate():
            # Counted anew when Lightning sees that a batch was begun and not ended.
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
        checkpoint["resume"] = {
            "processes": processes,
            "over": self._saving["over"],
            "validating": validating,
            "should_stop": trainer.should_stop,
            "first": connector._first_loop_iter,
            "hook": connector._current_fx,
            "metrics": {
                name: {key: torch.as_tensor(value).cpu() for key, value in of.items()}
                for name in ("callback", "logged", "progress_bar")
                for of in (getattr(connector, f"_{name}_metrics"),)
            },
            "rows": _rows(trainer),
        }

    # Going on

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.state = checkpoint.get("resume")
        version = checkpoint["segmentation"].get("version", "0.1.0 or older")
        if self.state is not None and version != __version__:
            raise UserError(
                f"the run was interrupted under version {version}, this is {__version__}: to the "
                "bit only the same version goes on; install it, or begin anew from the weights "
                f"with --run.weights {trainer.ckpt_path} and without --run.resume"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            for logger in _csv(trainer):
                logger.experiment.keep(self.state["rows"] if self.state else 0)
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
        set_process_state(trainer, pl_module, mine)
        for name, values in self.state["metrics"].items():
            known = {key: value.to(pl_module.device) for key, value in values.items()}
            setattr(connector, f"_{name}_metrics", known)
        connector._first_loop_iter = False
        _begin_epoch(trainer, Tracking)
        epoch: Any = loop.epoch_progress.current
        batches = loop.epoch_loop.batch_progress.current.completed
        skip_batches(trainer, epoch.processed, batches)

    def _resumed(self, trainer: Trainer) -> None:
        """At the very moment at which the checkpoint was made."""
        if self.state is None:
            return
        state, self.state = self.state, None
        _begin_epoch(trainer, ProgressBar)  # only now: before, it has not begun its own training
        loop = trainer.fit_loop
        loop._restarting = False  # or the epoch's end would leave out schedulers that watch a score
        loop.epoch_loop.max_steps = self._max_steps
        trainer.should_stop = state["should_stop"]
        if state["validating"]:
            # Or the batch that was counted as begun would be missing to the end of the epoch, and
            # the next checkpoint would seem to come from within a validation, too.
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
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    callback.on_train_end(trainer, pl_module)


def _begin_epoch(trainer: Trainer, kind: type[Callback]) -> None:
    """Lightning begins no epoch, for it was begun: what shows and measures it has to know."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            callback.on_train_epoch_start(trainer, trainer.lightning_module)


def _rows(trainer: Trainer) -> int:
    """How many rows of the log are on the disk, now that all are."""
    count = 0
    for logger in _csv(trainer) if trainer.is_global_zero else ():
        logger.save()
        count = logger.experiment.rows
    return count


def _csv(trainer: Trainer) -> list[ContinuedCSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, ContinuedCSVLogger)]
