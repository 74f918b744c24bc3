"""``fit``, ``validate`` and ``test``: LightningCLI, composed configs, one folder a run."""

import argparse
import errno
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from segmentation.checkpoints import load_task, read_checkpoint, without_download
from segmentation.config_files import find_config, read_parts
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.errors import UserError
from segmentation.experiments.sweep.arguments import plain_arguments
from segmentation.models.encoder import is_file, load_encoder, unreachable
from segmentation.task import SegmentationTask, check_loss
from segmentation.training.memory import keep_freed_memory
from segmentation.training.messages import (
    one_line,
    parser_gist,
    root_cause,
    shortened,
    silence_noise,
)
from segmentation.training.preemption import Preemption
from segmentation.training.resume import ContinuedCSVLogger
from segmentation.training.run_folder import (
    RUN_FOLDER,
    checkpoint_of,
    finish,
    first_process,
    forsake,
    mark,
    run_folder,
    unfinished,
)
from segmentation.training.run_logger import RunLogger
from segmentation.training.run_record import RunFolder
from segmentation.training.run_report import RunReport
from segmentation.training.test_report import TestReport
from segmentation.training.tracking import Tracking

LAST: dict[str, Any] = {"filename": "last", "enable_version_counter": False}


@dataclass(frozen=True)
class Run:
    """Where a run is kept and tracked.

    Attributes:
        root: Folder of all runs.
        name: Of the experiment; each run gets a folder of its own in ``root/name``.
        wandb: ``auto`` is online with an account (WANDB_API_KEY or a login), otherwise offline,
            to be uploaded later with ``wandb sync``; ``off`` keeps the CSV log alone.
        project: Of W&B.
        artifact: Give W&B the best checkpoint, too.
        weights: Start from the weights of this checkpoint, with a new optimizer.
        ensemble: In ``test``: score the mean of the probabilities of ``--ckpt_path`` and these
            checkpoints. Members trained on test images are refused, those of other folds too.
        resume: ``fit`` goes on with the newest unfinished run of this name, config and, under W&B's
            agent, id that no process works on, from the very batch; it starts anew where there is
            none. For jobs that are requeued: the same command every time.
        save_every: Minutes between checkpoints to resume from; SIGTERM and SIGUSR1 leave one too.
    """

    root: str = "runs"
    name: str = "unnamed"
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "biomedical-segmentation"
    artifact: bool = False
    weights: str | None = None
    ensemble: list[str] | None = None
    resume: bool = False
    save_every: float = 10.0


def run(
    arguments: Sequence[str],
    callbacks: Sequence[Callback] = (),
    cls: "type[CLI] | None" = None,
    tuned: bool = True,
) -> "CLI":
    """Run a command of LightningCLI.

    Args:
        arguments: Command and options, as typed.
        callbacks: Beside those of the config.
        cls: Another class than :class:`CLI`.
        tuned: Decode as ``segmentation tune`` found best for the checkpoint, where it was run.

    Raises:
        UserError: Config or data are at fault.
    """
    keep_freed_memory()
    silence_noise()
    launched = RUN_FOLDER in os.environ
    _stored.cache_clear()  # the file may have changed since another run of this process
    try:
        return (cls or CLI)(
            SegmentationTask,
            SegmentationDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            parser_class=_Parser,
            trainer_defaults={
                "use_distributed_sampler": False,
                # Lightning's save_last is the last *best* one. This is the last epoch, to resume.
                "callbacks": [*callbacks, ModelCheckpoint(**LAST)],
            },
            args=composed(["--help" if a == "--help-all" else a for a in arguments], tuned),
        )
    except _ParserError as error:
        raise UserError(parser_gist(str(error))) from None
    except OSError as error:
        if error.errno in (None, errno.EMFILE):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        where = os.environ.get(RUN_FOLDER) if full else error.filename
        raise UserError(
            f"{where or 'output'}: {error.strerror}; choose a --run.root with write "
            "access and free space"
        ) from error
    finally:
        if not launched:
            forsake()
            os.environ.pop(RUN_FOLDER, None)


def composed(arguments: Sequence[str], tuned: bool = True) -> list[str]:
    """Put the configs first, each replaced by the parts that it names, and what is typed last.

    An experiment lists its parts under ``compose``, relative to itself; what it says beside that
    wins over them, and later files win over earlier ones. To score a checkpoint is to score the
    model that it holds: its model comes after the files, before what is typed.

    Raises:
        UserError: A file is missing or not YAML, or files name each other in a circle.
    """
    command, rest = list(arguments[:1]), plain_arguments(arguments[1:])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    try:
        files, typed = parser.parse_known_args(rest)
        parser.add_argument("--ckpt_path")
        checkpoint = parser.parse_known_args(rest)[0].ckpt_path
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see segmentation {command[0]} --help") from None
    parts = [part for file in files.config for part in read_parts(find_config(file))]
    for part in parts if checkpoint is None else ():
        checkpoint = part.get("ckpt_path") or checkpoint
    if checkpoint and command != ["fit"]:
        model = _stored(checkpoint, tuned)["config"]
        parts += [{"model": without_download(model)}] if model else []
    texts = [yaml.safe_dump(part, sort_keys=False) for part in parts]
    return [*command, *(word for text in texts for word in ("--config", text)), *typed]


@functools.lru_cache(1)
def _stored(path: str, tuned: bool) -> dict[str, Any]:
    """What this package adds to a checkpoint: plain values, kept so that the file is read once."""
    stored: dict[str, Any] = read_checkpoint(path, tuned)["segmentation"]
    return stored


class _ParserError(Exception):
    """A parser's message as it is: parsers are nested, and only the outermost knows the option."""


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise _ParserError(message)


class CLI(LightningCLI):
    """LightningCLI with a folder for each run, its own logs, and a test after training."""

    folder: Path

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        # Data are prepared and encoded as the task's checkpoint will say.
        for name in ("preprocess", "target"):
            parser.link_arguments(
                "model", f"data.init_args.{name}", attrgetter(name), apply_on="instantiate"
            )
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/iou",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own version warns whenever arguments are handed over.
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Lightning would read the whole checkpoint for hyperparameters, which ours never hold."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        for key, value in config.items():
            if value in ("None", "null"):  # what becomes of a typed null where text is allowed
                config[key] = None
        self.config_text = self._parser(self.subcommand).dump(config, skip_none=False)
        self.plain_config: dict[str, Any] = yaml.safe_load(self.config_text)
        home = Path(config.run.root) / config.run.name
        if (
            self.subcommand == "fit"
            and config.run.resume
            and (folder := unfinished(home, self.plain_config, os.environ.get(RUN_FOLDER)))
        ):
            os.environ[RUN_FOLDER] = str(folder)
            config["ckpt_path"] = checkpoint_of(folder) or config.get("ckpt_path")
        path = config.get("ckpt_path")
        self.encoder_file: str | None = None
        replaced = path is not None or config.run.weights is not None
        for key, value in config["model"].items():
            if key.endswith("encoder_weights") and (replaced or is_file(value)):
                config["model"][key] = None  # smp knows names alone, and would fetch them
                self.encoder_file = None if replaced else value
        if path is not None:
            if self.subcommand == "fit":
                stored = _stored(str(path), False)
                if stored.get("exported"):
                    raise UserError(
                        f"{path}: cannot be trained on, its optimizer was left out; start anew "
                        "from its weights with --run.weights"
                    )
                self._refuse_other_optimizer(self.plain_config["model"], stored["config"] or {})
        elif self.subcommand != "fit":
            raise UserError(f"{self.subcommand} needs --ckpt_path FILE, the checkpoint to score")

    def instantiate_classes(self) -> None:
        wrong = (ValueError, TypeError, KeyError, ImportError, MisconfigurationException)
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except Exception as error:  # of a hub: whatever it and its library for HTTP raise
            if unreachable(error):
                raise UserError(
                    "model.net.encoder_weights: they could not be fetched "
                    f"({root_cause(error)}); fetch the encoder's file elsewhere and set "
                    "model.net.encoder_weights to it, or to null"
                ) from error
            if isinstance(error, wrong):
                raise UserError(f"the config cannot be built: {root_cause(error)}") from error
            raise

    def after_instantiate_classes(self) -> None:
        check_loss(self.model.loss, self.model.target)
        self.model.config = self.plain_config["model"]
        settings: Run = self._get(self.config_init, "run")
        if settings.ensemble and self.subcommand != "test":
            raise UserError(f"--run.ensemble is of test alone, not of {self.subcommand}; leave it")
        for member in settings.ensemble or ():
            self.model.add_member(load_task(member), member)
        if self.encoder_file is not None:
            load_encoder(self.model.net, self.encoder_file)
        weights = settings.weights
        if weights is not None:
            try:
                checkpoint = read_checkpoint(weights, tuned=False)
                self.model.load_state_dict(checkpoint["state_dict"])
                self.model.trained_on = checkpoint["segmentation"].get("trained_on", {})
            except RuntimeError as error:
                raise UserError(
                    f"{weights}: does not fit model.net ({shortened(one_line(str(error)))})"
                ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings: Run = self._get(self.config_init, "run")
        trainer_config = self._get(self.config_init, "trainer")
        self.quick = bool(trainer_config.get("fast_dev_run"))  # nothing is kept
        if settings.artifact and settings.wandb == "off":
            raise UserError("run.artifact is for W&B, and run.wandb is off; leave one of them out")
        self.folder = run_folder(Path(settings.root), settings.name, str(self.subcommand))
        kept = self.subcommand == "fit" and not self.quick
        self.run_id = mark(self.folder, self.plain_config) if kept and first_process() else None
        logger: list[Logger] = [ContinuedCSVLogger(self.folder)]
        if settings.wandb != "off" and not self.quick:
            logger.append(self._wandb(settings))
        extra: list[Callback] = [
            RunFolder(self.folder, self.config_text),
            TestReport(self.folder),
            LearningRateMonitor("step"),
        ]
        if not self.quick:
            extra += [Tracking(self.folder, settings.artifact), RunReport(self.folder)]
        # It says what is due before a batch, so it comes before all others.
        first = Preemption(settings.save_every, kept)
        trainer_config["callbacks"] = [first, *(trainer_config["callbacks"] or []), *extra]
        return super().instantiate_trainer(logger=logger, default_root_dir=self.folder, **kwargs)

    def after_fit(self) -> None:
        """Test the best checkpoint, as the numbers that a run is known by."""
        if self.quick or self.trainer.interrupted:
            return
        self._test_best()
        if self.trainer.is_global_zero:
            finish(self.folder)

    def _test_best(self) -> None:
        if not self.datamodule.split.test:
            if self.trainer.is_global_zero:
                print("The split holds no test images: nothing was tested.")
            return
        # The first checkpoint callback is the one that watches a score.
        # Without a validation it has watched none: the last weights are tested as they are.
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", None) or None
        if best is None and self.trainer.is_global_zero:
            print("Nothing was validated, so there is no best epoch: the last weights are tested.")
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)

    def _wandb(self, settings: Run) -> RunLogger:
        online = settings.wandb == "online" or (settings.wandb == "auto" and _has_account())
        return RunLogger(
            self.folder,
            name=f"{settings.name}/{self.folder.name}",
            project=settings.project,
            offline=not online,
            id=self.run_id,
            config=self.plain_config,
        )

    @staticmethod
    def _refuse_other_optimizer(typed: dict[str, Any], stored: dict[str, Any]) -> None:
        """Resuming restores the optimiser's state, and with it the old values, in silence."""
        for part in ("optimizer", "lr_scheduler"):
            new = _flat(typed["init_args"].get(part))
            old = _flat(stored.get("init_args", {}).get(part))
            for key in sorted(new.keys() | old.keys()):
                if new.get(key) != old.get(key):
                    name = f"model.{part}.{key}".replace("init_args.", "")
                    raise UserError(
                        f"{name} is {new.get(key)} but the checkpoint's is {old.get(key)}, which "
                        "resuming restores; leave it, or train anew from the weights with "
                        "--run.weights FILE"
                    )


def _has_account() -> bool:
    """Whether W&B would find a key: in the environment or in the netrc file of a login."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix.rstrip("."): tree} if prefix else {}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}{key}.").items()}


def fit(*options: str) -> None:
    """Train, keep the best and the last checkpoint, and test the best.

    Every key of the config can be set here too, and what is typed wins over the files:

      --config FILE                    may be repeated; later files win
      --data.root DIR                  where the images are
      --data.batch_size 16             any argument of the data module
      --model.optimizer.lr 3e-4        any argument of the network, loss, optimiser …
      --model.net segmentation_models_pytorch.FPN --model.net.encoder_name resnet34
      --trainer.max_epochs 50          any argument of lightning.Trainer
      --trainer.devices 2 --trainer.strategy ddp
      --trainer.precision bf16-mixed
      --run.name NAME --run.root DIR   the run's folder is DIR/NAME/<time>
      --run.wandb auto|online|offline|off
      --ckpt_path FILE                 resume this training
      --seed_everything 1
      --print_config                   show the whole config and stop
      --help-all                       every option of every part (slow: imports everything)

    With W&B's sweeps the same command runs under `wandb agent`.
    """
    run(["fit", *options])


def validate(*options: str) -> None:
    """Score a checkpoint on the validation set.

    Needs --config FILE and --ckpt_path FILE; all other options are those of fit.
    """
    run(["validate", *options])


def test(*options: str) -> None:
    """Score a checkpoint on the test set, beside Otsu's threshold.

    Needs --config FILE and --ckpt_path FILE; all other options are those of fit.
    """
    run(["test", *options])
