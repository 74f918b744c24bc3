"""``fit``, ``validate`` and ``test``: LightningCLI, composed configs, one folder a run."""

import errno
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from segmentation.checkpoints import load_task, read_checkpoint, run_exported
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.seen import trained_on
from segmentation.errors import UserError
from segmentation.fitting import check_loss
from segmentation.models.encoder import is_file, load_encoder, unreachable
from segmentation.networks import find_checkpoint
from segmentation.runtimes.net import open_exported
from segmentation.runtimes.record import is_exported
from segmentation.task import SegmentationTask
from segmentation.terminal import quiet, verbose
from segmentation.training import messages, run_folder
from segmentation.training.arguments import composed
from segmentation.training.console import Console, print_validated
from segmentation.training.loggers import MetricsLogger, keep_files, listed, more_loggers, wandb_for
from segmentation.training.memory import keep_freed_memory
from segmentation.training.report import PAGE, RunReport
from segmentation.training.resume import ExactResume
from segmentation.training.run_folder import RUN_FOLDER, RunRecord
from segmentation.training.settings import (
    Parser,
    ParserError,
    Run,
    check_ranges,
    link_task_to_data,
    parser_gist,
)
from segmentation.training.signals import leaving
from segmentation.training.test_report import TestReport
from segmentation.training.tracking import Tracking
from segmentation.training.trial import (
    check_monitors,
    check_optimizer,
    refuse_other_optimizer,
    told,
    unbuilt,
    without_finders,
)
from segmentation.training.tuning import check_score, default_score, tune_best
from segmentation.trust import bounded, class_names

LAST: dict[str, Any] = {"filename": "last", "enable_version_counter": False}
BEST = LAST | {"filename": "best", "monitor": "auto", "mode": "max"}


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, under a name of its own: the config may hold others with the same settings.

    Its ``monitor`` is ``auto`` by default: what the target says, ``Target.monitor``.
    """


def run(
    arguments: Sequence[str],
    callbacks: Sequence[Callback] = (),
    cls: "type[CLI] | None" = None,
    tuned: bool = True,
) -> "CLI":
    """Run a command of LightningCLI, with its options as typed.

    ``callbacks`` come beside those of the config. With ``tuned`` the decoding is as ``segmentation
    tune`` found best for the checkpoint, where it was run.
    """
    keep_freed_memory()
    messages.silence_noise()
    launched = RUN_FOLDER in os.environ
    every, command = LightningCLI.subcommands(), arguments[0]
    # The parsers of the other commands would only take time.
    alone: Any = {"subcommands": staticmethod(lambda: {command: every[command]})}
    try:
        with leaving():
            cli: CLI = type("CLI", (cls or CLI,), alone)(
                SegmentationTask,
                SegmentationDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_callback=None,
                parser_class=Parser,
                trainer_defaults={
                    "use_distributed_sampler": False,
                    # Lightning's save_last is the last *best* one; this, the last epoch, to resume.
                    "callbacks": [*callbacks, RunCheckpoint(**LAST)],
                },
                args=composed(arguments, tuned),
            )
            return cli
    except ParserError as error:
        raise UserError(parser_gist(str(error))) from None
    except OSError as error:
        if error.errno in (None, errno.EMFILE):
            raise
        # Where a disk is full, the error has no file's name.
        where = error.filename or os.environ.get(RUN_FOLDER, "output")
        raise UserError(
            f"{where}: {error.strerror}; choose a --run.root with write access and free space"
        ) from error
    finally:
        if not launched:
            run_folder.remove_if_empty()
            os.environ.pop(RUN_FOLDER, None)


class CLI(LightningCLI):
    """LightningCLI with a folder for each run, its own logs, and a test after training."""

    folder: Path

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.add_class_arguments(RunCheckpoint, "checkpoint", fail_untyped=False)
        trust = "Packages of yours whose classes a checkpoint may name: their code runs."
        parser.add_argument("--trust", nargs="+", action="extend", default=[], help=trust)
        link_task_to_data(parser)
        parser.set_defaults({f"checkpoint.{name}": value for name, value in BEST.items()})

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        own = {} if subcommand == "fit" else {"verbose": False}  # or Lightning prints every score
        return super()._prepare_subcommand_kwargs(subcommand) | own

    def before_fit(self) -> None:
        for logger in self.others:
            logger.log_hyperparams(
                {k: self.plain_config[k] for k in ("seed_everything", "data", "model")}
            )
        if self.trainer.is_global_zero and not self.quick and not quiet():
            print(f"report    {self.folder / PAGE} (rewritten after each epoch)", flush=True)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own version warns whenever arguments are handed over.
        self.config = parser.parse_args(args)
        check_ranges(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Lightning would read the whole checkpoint for hyperparameters, which ours never hold."""

    def before_instantiate_classes(self) -> None:
        config, fits = self.config[self.subcommand], self.subcommand == "fit"
        for key, value in config.items():
            if value in ("None", "null"):  # what becomes of a typed null where text is allowed
                config[key] = None
        self.config_text = self._parser(self.subcommand).dump(config, skip_none=False)
        self.plain_config: dict[str, Any] = yaml.safe_load(self.config_text)
        self.trust = class_names(self.plain_config["model"]).union(config.trust)
        if fits and config.run.resume:
            home, chosen = Path(config.run.root, config.run.name), os.environ.get(RUN_FOLDER)
            folder = Path(chosen) if chosen else run_folder.unfinished(home, self.plain_config)
            if folder is not None:
                os.environ[RUN_FOLDER] = str(folder)
                found = run_folder.checkpoint_of(folder, self.trust)
                config["ckpt_path"] = found or config.get("ckpt_path")
        path = config.get("ckpt_path")
        self.encoder_file: str | None = None
        replaced = path is not None or config.run.weights is not None
        for key, value in config["model"].items():
            if key.endswith("encoder_weights") and (replaced or is_file(value)):
                config["model"][key] = None  # smp knows names alone, and would fetch them
                self.encoder_file = None if replaced else value
        if path is not None:
            path = config["ckpt_path"] = str(find_checkpoint(path))
        self.exported: str | None = None
        if path is not None and not fits and is_exported(path):
            self.exported, config["ckpt_path"] = path, None  # Lightning would read it
        if path is None and not fits:
            raise UserError(f"{self.subcommand} needs --ckpt_path FILE, the checkpoint to score")
        if path is not None and fits:
            known = read_checkpoint(path, False, self.trust)["segmentation"]
            if known.get("exported"):
                raise UserError(
                    f"{path}: cannot be trained on, its optimizer was left out; start anew from "
                    "its weights with --run.weights"
                )
            refuse_other_optimizer(self.plain_config["model"], known.get("config") or {})

    def instantiate_classes(self) -> None:
        wrong = (ValueError, TypeError, KeyError, ImportError, MisconfigurationException)
        path = None if self.subcommand == "fit" else self.config[self.subcommand].ckpt_path
        try:
            with bounded(path) if path else nullcontext():
                super().instantiate_classes()
        except UserError:
            raise
        except Exception as error:  # of a hub: whatever it and its library for HTTP raise
            gist = messages.root_cause(error)
            if unreachable(error):
                raise UserError(
                    f"model.net.encoder_weights: they could not be fetched ({gist}); fetch the "
                    "encoder's file elsewhere and set model.net.encoder_weights to it, or to null"
                ) from error
            if isinstance(error, wrong):
                raise unbuilt(error) from error
            raise

    def after_instantiate_classes(self) -> None:
        check_loss(self.model.loss, self.model.target)
        if self.subcommand == "fit":
            check_optimizer(self.model)
            check_monitors(self.trainer, self.model, self.best)
            check_score("run.tune:", self._tuned_for(), self.model.target)
        self.model.config = self.plain_config["model"]
        if self.exported is not None:
            run_exported(self.model, open_exported(Path(self.exported)))
        settings: Run = self._get(self.config_init, "run")
        if settings.ensemble and self.subcommand != "test":
            raise UserError(f"--run.ensemble is of test alone, not of {self.subcommand}; leave it")
        for member in settings.ensemble or ():
            self.model.add_member(load_task(member, self.trust), member)
        if self.encoder_file is not None:
            load_encoder(self.model.net, self.encoder_file)
        if (weights := settings.weights) is not None:
            try:
                checkpoint = read_checkpoint(weights, False, self.trust)
                self.model.load_state_dict(checkpoint["state_dict"])
                self.model.trained_on = trained_on(checkpoint["segmentation"])
                self.model.chosen_on = trained_on(checkpoint["segmentation"], "chosen_on")
            except RuntimeError as error:
                gist = messages.shortened(messages.one_line(str(error)))
                raise UserError(f"{weights}: does not fit model.net ({gist})") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings: Run = self._get(self.config_init, "run")
        config = self._get(self.config_init, "trainer")
        self.best: RunCheckpoint = self._get(self.config_init, "checkpoint")
        if self.best.monitor == "auto":
            self.best.monitor = self.model.target.monitor
        self.quick = bool(config.get("fast_dev_run"))  # nothing is kept
        if settings.artifact and settings.wandb == "off":
            raise UserError("run.artifact is for W&B, and run.wandb is off; leave one of them out")
        self.folder = run_folder.make(Path(settings.root), settings.name, str(self.subcommand))
        keeps = config.get("enable_checkpointing") is not False
        self.kept = kept = self.subcommand == "fit" and not self.quick and keeps
        first = kept and run_folder.first_process()
        run_id = run_folder.mark(self.folder, self.plain_config) if first else None
        loggers: list[Logger] = [csv := MetricsLogger(self.folder)]
        if settings.wandb != "off" and not self.quick:
            parts = [self.model.net, self.model.target]
            parts.append(getattr(self.datamodule, "source", self.datamodule))
            about = {"id": run_id, "config": self.plain_config}
            loggers.append(wandb_for(settings, self.folder, parts, **about))
        self.others = more_loggers(config.get("logger"), self.folder)
        loggers += self.others
        # It says what is due before a batch, so it comes before all others; and the checkpoint that
        # is tested before others that the config may keep: Lightning asks the first.
        every: list[Callback] = [ExactResume(csv, settings.save_every, kept), self.best]
        chosen = listed(config["callbacks"])
        resumed = self.config[self.subcommand].get("ckpt_path")
        every += without_finders(chosen) if resumed and kept else chosen
        if not keeps:
            every.remove(self.best)
            del self.trainer_defaults["callbacks"][-1]
        self.report = TestReport(self.folder, colours=settings.overlays)
        every += [RunRecord(self.folder, self.config_text), self.report]
        every += [LearningRateMonitor("step")]
        # Others' bars only where they were asked for.
        theirs = any(isinstance(one, ProgressBar) for one in every)
        bars = config.get("enable_progress_bar") is not False and not theirs
        every.insert(2, Console(self.best, bars))
        config["enable_progress_bar"] = theirs
        if config.get("enable_model_summary") is None:
            config["enable_model_summary"] = verbose()
        if not self.quick:
            tracked = Tracking(self.folder, settings.artifact, colours=settings.overlays)
            every += [tracked, RunReport(self.folder)]
        config["callbacks"] = every
        return super().instantiate_trainer(logger=loggers, default_root_dir=self.folder, **kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            known = isinstance(error, UserError | OSError)
            if known or (line := told(error, self.trainer, self.model)) is None:
                raise
            raise line from error

    def _tuned_for(self) -> str:
        """The score for which ``fit`` tunes the decoding; none where it does not."""
        score = self._get(self.config_init, "run").tune
        return default_score(self.best.monitor) if score is True else score or ""

    def after_fit(self) -> None:
        """Tune and test the best checkpoint, as the numbers that a run is known by."""
        if self.quick or self.trainer.interrupted:
            return
        zero, score = self.trainer.is_global_zero, self._tuned_for()
        # Without a validation there is no best: the last weights are tested as they are.
        best = self.best.best_model_path or None
        if best and score:
            self.report.untuned = tune_best(self.trainer, self.model, best, score)
        untested = "" if self.datamodule.split.test else "The split holds no test images"
        if self.trainer.limit_test_batches == 0:
            untested = "trainer.limit_test_batches is 0"
        if untested:
            if zero:
                print(f"{untested}: nothing was tested.")
        else:
            if zero and not self.trainer.global_step:
                print("Nothing was trained: the network is tested as it began.")
            elif best is None and zero:
                why = f"{self.best.monitor} was never logged"
                why = why if self.kept else "no checkpoint is kept"
                print(f"No epoch is best, for {why}: the last weights are tested.")
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)
        if zero:
            artifact = self._get(self.config_init, "run").artifact
            keep_files(self.trainer.loggers, self.folder, artifact)
            run_folder.finish(self.folder)

    def after_validate(self) -> None:
        """Print what a test prints first; not where tune or prune looked at the images."""
        if self.trainer.is_global_zero and len(self.trainer_defaults["callbacks"]) <= 1:
            print_validated(self.trainer.callback_metrics, self.folder / "metrics.csv")

    def after_test(self) -> None:
        if self.trainer.is_global_zero:
            keep_files(self.trainer.loggers, self.folder)


def fit(*options: str) -> None:
    """Train, keep the best and the last checkpoint, tune how the best decodes, and test it.

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
      --run.tune false                 decode as trained
      --ckpt_path FILE                 resume this training
      --seed_everything 1
      --print_config                   show the whole config and stop
      --explain KEY                    what a key means, and the classes that may stand there
      --help-all                       all keys of all parts, with their defaults

    With W&B's sweeps the same command runs under `wandb agent`.
    """
    run(["fit", *options])


def validate(*options: str) -> None:
    """Score a checkpoint on the validation set.

    Needs --config FILE and --ckpt_path FILE; all other options are those of fit.
    """
    run(["validate", *options])


def test(*options: str) -> None:
    """Score a checkpoint on the test set, beside two baselines without learning.

    Needs --config FILE and --ckpt_path FILE; all other options are those of fit.
    """
    run(["test", *options])
