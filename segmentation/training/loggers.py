"""The loggers of every run: ``metrics.csv``, and W&B in a way that never stops a training."""

import contextlib
import functools
import json
import netrc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_warn

from segmentation.errors import UserError
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.classical import BASELINES
from segmentation.evaluation.overlays import composite
from segmentation.evaluation.pictures import Picture
from segmentation.evaluation.table import ABOUT
from segmentation.io.files import write_bytes
from segmentation.metrics.classes import is_count
from segmentation.score_names import LOGGED, OBJECT_SCORES
from segmentation.training.messages import one_line, shortened
from segmentation.training.settings import Run
from segmentation.training.signals import STATUS

INIT_SECONDS, FINISH_SECONDS = 30, 120  # that W&B's server may keep a run waiting
ASK_SECONDS = 5  # that it may keep one waiting that was asked to stop
TABLE_IMAGES = 200  # in the table of test images; per_image.csv has all


def more_loggers(chosen: Any, folder: Path) -> list[Logger]:
    """What ``--trainer.logger`` asks for beside the run's own: ``true`` is TensorBoard."""
    if chosen is True:
        try:
            return [TensorBoardLogger(folder, name="", version="tensorboard")]
        except ModuleNotFoundError as error:
            gist = one_line(str(error))
            raise UserError(
                f"trainer.logger: true is TensorBoard ({gist}); install it: "
                "pip install 'biomedical-segmentation[tensorboard]'"
            ) from None
    return listed(chosen)


def keep_files(loggers: Sequence[Any], folder: Path, artifact: bool = False) -> None:
    """Give W&B the page of a run, and MLflow its page, scores and, if wanted, best checkpoint."""
    page = folder / "report.html"
    for logger in loggers:
        if isinstance(logger, RobustWandbLogger) and page.exists():
            logger.log_page(page)
        if isinstance(logger, MLFlowLogger):
            wanted = [page, folder / "scores.json", folder / "config.yaml"]
            wanted += [folder / "checkpoints/best.ckpt"] * artifact
            for path in filter(Path.exists, wanted):
                logger.experiment.log_artifact(logger.run_id, str(path))


def listed(chosen: Any) -> list[Any]:
    """What may be given as one or as several, or not at all."""
    return [] if not chosen else list(chosen) if isinstance(chosen, Iterable) else [chosen]


class MetricsLogger(CSVLogger):
    """``metrics.csv`` in the run's folder, which may have been begun by another process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=50)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    def flushed(self) -> int:
        """How many rows are on the disk, now that all are."""
        self.save()
        rows: int = self.experiment.rows
        return rows


class _Writer(ExperimentWriter):
    """Goes on with the file that is there, and never leaves half a one."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.keep(None)

    def _check_log_dir_exists(self) -> None:
        """Lightning's own deletes what is there."""

    def save(self) -> None:
        self.rows += len(self.metrics)
        super().save()

    def keep(self, count: int | None) -> None:
        """Drop what was logged after the first ``count`` rows: it is about to be done again."""
        table = self._table()
        self.metrics_keys = table.columns.astype(str).tolist()
        self.metrics, self.rows = [], len(table[:count])
        if self.rows < len(table):
            self._write(table[:count])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._table().reindex(columns=fieldnames))

    def _table(self) -> pd.DataFrame:
        try:
            as_text: Any = {"dtype": str, "keep_default_na": False, "on_bad_lines": "skip"}
            table: pd.DataFrame = pd.read_csv(self.metrics_file_path, index_col=False, **as_text)
            return table
        except (FileNotFoundError, pd.errors.EmptyDataError):  # killed before its first row
            return pd.DataFrame()

    def _write(self, table: pd.DataFrame) -> None:
        text = table.to_csv(index=False, lineterminator="\r\n")  # as Lightning ends them
        write_bytes(Path(self.metrics_file_path), text.encode())


def _attempted(method: Callable[..., Any]) -> Any:
    """The method of a logger: where it fails, that is said once, and the run goes on."""

    @functools.wraps(method)
    def attempt(logger: "RobustWandbLogger", *arguments: Any, **more: Any) -> None:
        try:
            method(logger, *arguments, **more)
        except Exception as error:  # W&B's own kinds, those of its sockets, a full disk …
            if not logger.failed:
                _warn("failed", error, "the run goes on, its folder has all")
            logger.failed = True

    return attempt


class RobustWandbLogger(WandbLogger):
    """W&B that never stops a training, whatever becomes of its server, quota or disk.

    A server that does not answer is given up after half a minute, and the run goes on offline. What
    fails after that is said once; what is not uploaded two minutes after the end is left, whole, to
    ``wandb sync``. What W&B keeps for a later upload is in the run's ``folder``.
    """

    def __init__(self, folder: Path, offline: bool = False, **settings: Any) -> None:
        super().__init__(save_dir=folder, **settings)
        # Lightning sets $WANDB_MODE, which W&B reads but once.
        if offline and os.environ.get("WANDB_MODE") != "disabled":
            self._wandb_init["mode"] = "offline"
        self._wandb_init.pop("anonymous", None)  # W&B warns of Lightning's None
        if os.environ.get("WANDB_SWEEP_ID"):  # its agent says both, and W&B warns of ours
            del self._wandb_init["project"], self._wandb_init["id"]
        self.failed = False
        self.class_names: tuple[str, ...] = ()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            import wandb

            # What waits for an upload: by default in the user's home, which no container keeps.
            os.environ.setdefault("WANDB_DATA_DIR", os.path.abspath(f"{self.save_dir}/wandb"))
            limits = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS}
            known = {k: v for k, v in limits.items() if k in wandb.Settings.model_fields}
            self._wandb_init.setdefault("settings", known)
            try:
                return super().experiment
            except Exception as error:
                _warn("cannot be reached", error, "this run goes on offline")
            self._wandb_init["mode"] = "offline"
            try:
                wandb.teardown()  # its service still holds the run's id
                return super().experiment
            except Exception as error:
                _warn("cannot be used", error, "this run goes on without")
                self._experiment = wandb.init(mode="disabled")
        return self._experiment

    @_attempted
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Scores of the validation go into sections of their own, of pixels and of objects, too."""
        sections = {section_of(name): value for name, value in metrics.items()}
        super().log_metrics({**sections, **metrics}, step)

    log_hyperparams = _attempted(WandbLogger.log_hyperparams)
    log_image = _attempted(WandbLogger.log_image)
    finalize = _attempted(WandbLogger.finalize)

    @_attempted
    def describe(self, folder: Path, best: Mapping[str, str]) -> None:
        """Say what the run is made of, and which value of a score is its ``best``: min or max."""
        run, about = self.experiment, json.loads((folder / "run.json").read_text())
        keep = {name: about[name] for name in ("git", "split_sha256", "versions") if name in about}
        run.config.update(keep, allow_val_change=True)
        if (diff := folder / "git.diff").exists():
            copy = Path(run.dir) / diff.name
            copy.write_bytes(diff.read_bytes())
            run.save(str(copy), base_path=run.dir, policy="now")
        for name, kind in best.items():
            step = {"step_metric": "trainer/global_step", "summary": kind}
            section = section_of(name)
            run.define_metric(name, **step, hidden=section != name)
            if section != name:
                run.define_metric(section, step_metric=step["step_metric"], summary="none")

    @_attempted
    def log_pictures(self, shown: Mapping[str, Picture], step: int) -> None:
        """Images by name; with a key each: images of one key should have one size."""
        images = enumerate(shown.items(), start=1)
        names = self.class_names
        layered = {f"val/image_{i}": _layered(p, names, name) for i, (name, p) in images}
        self.log_metrics(layered, step)

    @_attempted
    def log_test(
        self, rows: Sequence[Mapping[str, Any]], picture: Callable[[str], Picture]
    ) -> None:
        """The rows of the network in ``per_image.csv``, each with its picture, the worst first."""
        import wandb

        scores = [name for name in rows[0] if name not in ABOUT and not is_count(name)]
        table = wandb.Table(columns=["image", "id", "kind", *scores])
        for row in sorted(rows, key=lambda row: float(row["iou"]))[:TABLE_IMAGES]:
            shown = _layered(picture(row["id"]), self.class_names)
            table.add_data(shown, row["id"], row["kind"], *(row[name] for name in scores))
        self.log_metrics({"test/images": table})

    @_attempted
    def log_summary(self, scores: Mapping[str, Any]) -> None:
        """Into the run's summary: the interval of each test score, and the baselines' scores.

        Such as ``test/iou_low``, ``test/iou_high``, ``otsu/iou``, ``classical/iou``.
        """
        found: dict[str, Any] = {}
        for name, ends in scores["intervals"]["network"].items():
            found |= {f"test/{name}_{end}": v for end, v in zip(("low", "high"), ends, strict=True)}
        for method in (*BASELINES, "as trained"):
            of_it = scores.get(method, {})
            found |= {f"{method.replace(' ', '_')}/{name}": v for name, v in of_it.items()}
        self.experiment.summary.update({k: v for k, v in found.items() if v is not None})

    @_attempted
    def log_page(self, page: Path) -> None:
        """The run's page, to be read on W&B's."""
        import wandb

        self.log_metrics({"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})

    @_attempted
    def log_curves(self, counts: np.ndarray) -> None:
        """Precision-recall and ROC, of (2, bins) pixels by probability: foreground, background."""
        import wandb

        for key, title, names, points in (
            ("test/precision_recall", "Precision and recall", ("recall", "precision"), pr_curve),
            ("test/roc", "ROC", ("false positive rate", "true positive rate"), roc_curve),
        ):
            data = np.stack(points(counts), axis=1)
            data = np.unique(data[np.isfinite(data).all(axis=1)].round(5), axis=0)
            table = wandb.Table(columns=list(names), data=data.tolist())
            self.log_metrics({key: wandb.plot.line(table, *names, title=title)})

    @_attempted
    def upload(self, path: Path) -> None:
        """A checkpoint, as an artifact."""
        import wandb

        artifact = wandb.Artifact(f"model-{self.experiment.id}", "model")
        # Not copied: nothing writes to a run's best checkpoint after its end, and an offline run
        # finds it where it is when it is uploaded.
        artifact.add_file(str(path.resolve()), path.name, policy="immutable", skip_cache=True)
        self.experiment.log_artifact(artifact, aliases=["best"])


def wandb_for(settings: Run, folder: Path, parts: Iterable[Any], **about: Any) -> RobustWandbLogger:
    """The logger of a run, tagged with the classes of its ``parts``; ``about``: id and config."""
    kinds = (type(part).__name__ for part in parts)
    account = bool(os.environ.get("WANDB_API_KEY"))
    with contextlib.suppress(OSError, netrc.NetrcParseError):  # the file of a login
        account |= any("wandb" in host for host in netrc.netrc().hosts)
    return RobustWandbLogger(
        folder,
        offline=settings.wandb != "online" and not (settings.wandb == "auto" and account),
        name=f"{settings.name}/{folder.name}",
        project=settings.project,
        group=settings.name.rpartition("/")[0] or settings.name,
        tags=[*(kind.removesuffix("DataModule") for kind in kinds), *settings.tags],
        **about,
    )


def section_of(name: str) -> str:
    """Under which a validation's score is shown in W&B, which sorts by what stands before ``/``.

    >>> section_of("val/iou"), section_of("val/image_ap"), section_of("val/loss")
    ('val-pixels/iou', 'val-objects/image_ap', 'val/loss')
    """
    stage, _, score = name.partition("/")
    if stage != "val" or score not in LOGGED:
        return name
    objects = score.removeprefix("image_") in OBJECT_SCORES
    return f"val-{'objects' if objects else 'pixels'}/{score}"


def _layered(picture: Picture, classes: Sequence[str], name: str = "") -> Any:
    """An image with prediction and truth as W&B's mask layers, to be switched on and off."""
    import wandb

    layers = {
        title: {"mask_data": layer, "class_labels": names}
        for title, (layer, names) in picture.layers(classes).items()
    }
    return wandb.Image(composite(picture.image), caption=name, masks=layers)


def _warn(what: str, error: BaseException, now: str) -> None:
    gist = shortened(one_line(str(error) or repr(error)), 200)
    rank_zero_warn(f"W&B {what} ({gist}); {now}", stacklevel=3)


def finish_preempted() -> None:
    """End this process's W&B run, if it has one, as one that was interrupted and will go on.

    But for one that W&B's server itself ended: marked, it would be handed out and ended again,
    over and over. Only W&B's agent may have been asked to end it.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and (run := wandb.run) is not None:
        if "WANDB_SWEEP_ID" not in os.environ or not stopped_by_server(run):
            wandb.mark_preempting()
        wandb.finish(exit_code=STATUS)


_STOP = """query RunShouldStop($entity: String, $project: String, $run: String!) {
  project(entityName: $entity, name: $project) { run(name: $run) { shouldStop stopped } }
}"""


def stopped_by_server(run: Any) -> bool:
    """Whether W&B's server wants a run to end: early termination, or the button on its page.

    Its agent sends SIGTERM then, as a cluster does that takes its machine back. Without an answer
    within 5 seconds it is ``False``.
    """
    asked = {"entity": run.entity, "project": run.project, "run": run.id}
    key = run.settings.api_key  # else requests finds the one of `wandb login` in ~/.netrc
    try:
        answer = requests.post(  # wandb.Api() would take its time over a dead network
            f"{run.settings.base_url}/graphql",
            json={"query": _STOP, "variables": asked},
            auth=("api", key) if key else None,
            timeout=ASK_SECONDS,
        )
        found = answer.json()["data"]["project"]["run"]
        return bool(found["shouldStop"] or found["stopped"])
    except (requests.RequestException, KeyError, TypeError):  # or an answer that is none
        return False
