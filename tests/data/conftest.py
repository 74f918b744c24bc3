from pathlib import Path

import pytest

from segmentation.datasets.synthetic import write_dsb2018


@pytest.fixture(scope="session")
def dsb_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of a synthetic DSB2018: 4 training and 2 test images. Do not change them."""
    root = tmp_path_factory.mktemp("archives")
    write_dsb2018(root, images=4, size=(32, 40), test_images=2, zipped=True)
    return [root / f"stage1_{name}" for name in ("solution.csv", "test.zip", "train.zip")]
