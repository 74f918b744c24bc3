"""What all tests share: synthetic data written once, and nothing outside the test's own folders."""

import os

# Tests beside each other: one thread each, also in the processes that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import pytest

import segmentation  # noqa: F401  before albumentations, which it keeps from looking for updates
from segmentation.datasets.synthetic import write_dsb2018, write_folder

# After OpenVINO has run, a training in the same process ends in a segmentation fault (OpenVINO
# 2026, PyTorch 2.15). Its tests are therefore run by themselves: see `make test`.
RUNTIMES = bool(os.environ.get("SEGMENTATION_RUNTIMES"))
collect_ignore = [] if RUNTIMES else ["export", "runtimes"]

# Files of the longest tests: first, so that two processes end at about the same time.
LONGEST = {
    *("test_agent", "test_configs", "test_ddp", "test_fit", "test_resume", "test_studies"),
    "test_wandb",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that goes with the session, and no tracking."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGMENTATION_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("SEGMENTATION_TRUST", "tests")  # checkpoints with networks of the tests
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        yield


@pytest.fixture(scope="session")
def dsb_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 4 test images of 64×80 in DSB2018's layout, not zipped. Do not change it."""
    root = tmp_path_factory.mktemp("dsb2018")
    return write_dsb2018(root, images=12, size=(64, 80), test_images=4)


@pytest.fixture(scope="session")
def folder_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 gray 16-bit TIFF images of 48×64 with label maps in two folders. Do not change it."""
    root = tmp_path_factory.mktemp("folder")
    return write_folder(root, 9, 0, "labels", ".tif", 16, 1, size=(48, 64))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network whose answer is known. Do not change it."""
    from tests.predict.predicting import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("trained") / "best.ckpt")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real archives; tests that need it are skipped where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("SEGMENTATION_DATA", beside))
    if not root.is_dir():
        pytest.skip("no real data: set SEGMENTATION_DATA to the folder that holds it")
    return root
