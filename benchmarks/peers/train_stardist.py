"""StarDist with the settings of its own example on this data set.

32 rays, grid 2, patches of 256², batches of 4, Adam at 3e-4, flips, right angles, intensity and
noise. Its 400 epochs of 100 steps do not fit: the learning rate falls with the budget that is left
(cosine) instead of after 40 epochs without progress, and an epoch has 50 steps. The weights of the
lowest validation loss are kept, and both thresholds chosen, as it does by itself.
"""

import math
from typing import Any

import keras
import numpy as np
import peer
import stardist
from csbdeep.utils import normalize
from stardist import fill_label_holes
from stardist.models import Config2D, StarDist2D

STEPS = 50  # of an epoch


class Budget(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets the learning rate fall, and stops when a validation is all that still fits."""

    def __init__(self, job: peer.Job, rate: float) -> None:
        super().__init__()
        self.job, self.rate, self.steps = job, rate, 0
        self.begun, self.validation = job.spent(), 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        done = (self.job.spent() - self.begun) / max(1.0, self.job.budget - self.begun)
        self.model.optimizer.learning_rate = self.rate * (
            0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.job.left() < self.validation:
            self.model.stop_training = True

    def on_test_begin(self, logs: Any = None) -> None:
        self.start = self.job.spent()

    def on_test_end(self, logs: Any = None) -> None:
        self.validation = self.job.spent() - self.start


def augmented(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As in the example of its authors."""
    turns, (flip_y, flip_x) = np.random.randint(4), np.random.rand(2) < 0.5
    x, y = (np.rot90(some, turns) for some in (x, y))
    step_y, step_x = (-1 if flip else 1 for flip in (flip_y, flip_x))
    x, y = (some[::step_y, ::step_x] for some in (x, y))
    x = x * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
    noise = 0.02 * np.random.uniform(0, 1) * np.random.normal(0, 1, x.shape)
    return x + noise, y


def prepared(image: np.ndarray) -> np.ndarray:
    return np.asarray(normalize(image, 1, 99.8))


def train(job: peer.Job) -> dict[str, Any]:
    """Train until the budget is spent."""
    np.random.seed(0)
    keras.utils.set_random_seed(0)
    parts = [job.pairs(part) for part in ("train", "val")]
    (x, y), (x_val, y_val) = (
        ([prepared(i) for i in images], [fill_label_holes(m) for m in masks])
        for images, masks in parts
    )
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=1,
        train_patch_size=(256, 256),
        train_tensorboard=False,
        train_reduce_lr=None,
    )
    model = StarDist2D(config, name="model", basedir=str(job.work))
    model.prepare_for_training()
    budget = Budget(job, config.train_learning_rate)
    model.callbacks.insert(0, budget)
    epochs = 10_000  # it ends by the budget
    history = model.train(
        x, y, (x_val, y_val), augmenter=augmented, seed=0, epochs=epochs, steps_per_epoch=STEPS
    )
    losses = [round(value, 4) for value in history.history["val_loss"]]
    version = {"stardist": stardist.__version__, "keras": keras.__version__}
    return {"steps": budget.steps, "batch": config.train_batch_size, "losses": losses} | version


def tune(job: peer.Job) -> dict[str, Any]:
    """Its own search of both thresholds on the validation images."""
    model = StarDist2D(None, name="model", basedir=str(job.work))
    x, y = job.pairs("val")
    found = model.optimize_thresholds([prepared(i) for i in x], [fill_label_holes(m) for m in y])
    return {"thresholds": {key: float(value) for key, value in found.items()}}


def load(job: peer.Job) -> peer.Predict:
    """A function from an image to its labels."""
    model = StarDist2D(None, name="model", basedir=str(job.work))
    return lambda image: np.asarray(model.predict_instances(prepared(image))[0])


if __name__ == "__main__":
    peer.run(train, tune, load)
