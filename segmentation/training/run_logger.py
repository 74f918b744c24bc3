"""A logger for W&B that never stops a run, and what it shows of images, tests and checkpoints."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.tables import ABOUT, COUNTS, OBJECT_COUNTS
from segmentation.training.messages import one_line, shortened

INIT_SECONDS, FINISH_SECONDS = 30, 120  # that W&B's server may keep a run waiting
ASK_SECONDS = 5  # that it may keep one waiting that was asked to stop
TABLE_IMAGES = 200  # in the table of test images; per_image.csv has all
_CLASSES = {1: "foreground"}


class RunLogger(WandbLogger):
    """W&B that never stops a training, whatever becomes of its server, quota or disk.

    A server that does not answer is given up after half a minute, and the run goes on offline. What
    fails after that is said once; what is not uploaded two minutes after the end is left, whole, to
    ``wandb sync``.

    Args:
        folder: The run's folder; what W&B keeps for a later upload is below it.
        offline: Do not look for a server, unless W&B is disabled altogether ($WANDB_MODE).
        settings: Of ``WandbLogger``.
    """

    def __init__(self, folder: Path, offline: bool = False, **settings: Any) -> None:
        super().__init__(save_dir=folder, **settings)
        # Lightning sets $WANDB_MODE instead, which W&B reads but once.
        if offline and os.environ.get("WANDB_MODE") != "disabled":
            self._wandb_init["mode"] = "offline"
        self._wandb_init.pop("anonymous", None)  # W&B warns of Lightning's None
        if os.environ.get("WANDB_SWEEP_ID"):  # its agent says both, and W&B warns of ours
            del self._wandb_init["project"], self._wandb_init["id"]
        self.failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            import wandb

            # Tables and checkpoints that wait for an upload: by default in the user's home, which a
            # container does not keep.
            data = os.path.abspath(os.path.join(str(self.save_dir), "wandb"))
            os.environ.setdefault("WANDB_DATA_DIR", data)
            known = wandb.Settings.model_fields
            limits = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS}
            self._wandb_init.setdefault("settings", {k: v for k, v in limits.items() if k in known})
            try:
                return super().experiment
            except Exception as error:
                self._say(f"W&B cannot be reached ({_gist(error)}); this run goes on offline")
            self._wandb_init["mode"] = "offline"
            try:
                wandb.teardown()  # its service still holds the run's id
                return super().experiment
            except Exception as error:
                self._say(f"W&B cannot be used ({_gist(error)}); this run goes on without")
                self._experiment = wandb.init(mode="disabled")
        return self._experiment

    def attempt(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do something with W&B; if it fails, say so once and go on."""
        try:
            action(*arguments)
        except Exception as error:  # W&B's own kinds, those of its sockets, a full disk …
            if not self.failed:
                self._say(f"W&B failed ({_gist(error)}); the run goes on, its folder has all")
            self.failed = True

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.attempt(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        self.attempt(super().log_hyperparams, params)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
        self.attempt(partial(super().log_image, **more), key, images, step)

    def finalize(self, status: str) -> None:
        self.attempt(super().finalize, status)

    def _say(self, message: str) -> None:
        rank_zero_warn(message, stacklevel=3)


def log_table(
    logger: RunLogger,
    rows: Sequence[Mapping[str, Any]],
    picture: Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Give W&B the scores of the test images, each with its picture; the worst come first.

    Args:
        logger: Whose run it is.
        rows: Of the network in ``per_image.csv``.
        picture: Id of an image ► arguments of :func:`layered`.
    """

    def log() -> None:
        import wandb

        left_out = {*ABOUT, *COUNTS, *OBJECT_COUNTS}
        scores = [name for name in rows[0] if name not in left_out]
        table = wandb.Table(columns=["image", "id", "kind", *scores])
        for row in sorted(rows, key=lambda row: float(row["iou"]))[:TABLE_IMAGES]:
            shown = layered(*picture(row["id"]))
            table.add_data(shown, row["id"], row["kind"], *(row[name] for name in scores))
        logger.log_metrics({"test/images": table})

    if rows:
        logger.attempt(log)


def layered(image: np.ndarray, mask: np.ndarray, truth: np.ndarray, name: str = "") -> Any:
    """An image with prediction and truth as W&B's mask layers, to be switched on and off.

    Args:
        image: (H, W, C) uint8, C in {1, 3}, RGB.
        mask: (H, W) bool, the prediction.
        truth: (H, W) bool.
        name: The caption.
    """
    import wandb

    layers = {
        title: {"mask_data": layer.astype(np.uint8), "class_labels": _CLASSES}
        for title, layer in (("prediction", mask), ("truth", truth))
    }
    rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return wandb.Image(rgb, caption=name, masks=layers)


def log_curves(logger: RunLogger, counts: np.ndarray) -> None:
    """Give W&B the precision-recall and ROC curves.

    Args:
        logger: Whose run it is.
        counts: (2, bins) of ``functional.probability_histogram``: foreground, background.
    """
    import wandb

    for key, title, names, points in (
        ("test/precision_recall", "Precision and recall", ("recall", "precision"), pr_curve),
        ("test/roc", "ROC", ("false positive rate", "true positive rate"), roc_curve),
    ):
        data = np.stack(points(counts), axis=1)
        data = data[np.isfinite(data).all(axis=1)].round(5)
        table = wandb.Table(columns=list(names), data=np.unique(data, axis=0).tolist())
        logger.log_metrics({key: wandb.plot.line(table, *names, title=title)})


def upload(logger: RunLogger, path: Path) -> None:
    """Give W&B a checkpoint, as an artifact."""
    import wandb

    run = logger.experiment
    artifact = wandb.Artifact(f"model-{run.id}", "model")
    # Not copied: nothing writes to a run's best checkpoint after its end, and an offline run finds
    # it where it is when it is uploaded.
    artifact.add_file(str(path.resolve()), path.name, policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=["best"])


_STOP = """query RunShouldStop($entity: String, $project: String, $run: String!) {
  project(entityName: $entity, name: $project) { run(name: $run) { shouldStop stopped } }
}"""


def stopped_by_server(run: Any) -> bool:
    """Whether W&B's server wants a run to end: early termination, or the button on its page.

    Its agent sends SIGTERM then, as a cluster does that takes its machine back. But a run that is
    marked as preempted is handed out again, and would be ended anew, over and over.

    Args:
        run: Of ``wandb.init``.

    Returns:
        ``False``, too, where there is no answer within 5 seconds.
    """
    asked = {"entity": run.entity, "project": run.project, "run": run.id}
    key = run.settings.api_key  # else requests finds the one of `wandb login` in ~/.netrc
    try:
        answer = requests.post(
            f"{run.settings.base_url}/graphql",
            json={"query": _STOP, "variables": asked},
            auth=("api", key) if key else None,
            timeout=ASK_SECONDS,  # wandb.Api() would take its time over a dead network
        )
        told = answer.json()["data"]["project"]["run"]
        return bool(told["shouldStop"] or told["stopped"])
    except (requests.RequestException, KeyError, TypeError):  # or an answer that is none
        return False


def _gist(error: BaseException) -> str:
    return shortened(one_line(str(error) or repr(error)), 200)
