"""The table of datasets agrees with the readers and the configs."""

from pathlib import Path

import pytest

from segmentation.datasets.official import DATASETS
from tests.helpers import CONFIGS


@pytest.mark.parametrize("name", DATASETS)
def test_the_table(name: str, tmp_path: Path) -> None:
    official = DATASETS[name]
    assert (CONFIGS.parent / official.config).is_file()
    assert official.open(tmp_path).version >= 1
    assert official.url.startswith("https://") != bool(official.login)
    needed = [piece.needed for piece in official.pieces]
    assert needed == sorted(needed) and any(needed)
    for piece in official.pieces:
        assert piece.sha256 == "" or len(bytes.fromhex(piece.sha256)) == 32
