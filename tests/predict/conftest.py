"""Images to predict."""

from pathlib import Path

import pytest

from tests.predict.predicting import make_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path)
