"""Nothing in a folder is passed over in silence, and names pair as people expect."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segmentation.datasets.folder import FolderDataset, Masks
from segmentation.errors import UserError
from tests.regressions.conftest import picture, write_pairs, write_png


def ids(root: Path, mask_type: Masks = "binary", **names: str) -> dict[str, str]:
    """Each sample's id and the name of its first mask."""
    records = FolderDataset(root, mask_type=mask_type, **names).index()
    return {r.id: Path(r.masks[0]).name if r.masks else "" for r in records}


def renamed(folder: Path, name: Callable[[str], str]) -> None:
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(name(path.stem) + path.suffix))


def test_names_of_nnunet_pair(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, number=3)
    renamed(root / "images", lambda n: f"{n}_0000")
    assert ids(root) == {f"im{i}_0000": f"im{i}.png" for i in range(3)}


def test_the_rule_of_names_is_told(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, number=2)
    renamed(root / "masks", lambda n: f"truth {n}")
    with pytest.raises(
        UserError, match=r"im0\.png: no mask .*as its image, or that .*_mask.* there: truth im0\)"
    ):
        ids(root)


def test_masks_beside_their_images(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, number=2)
    for i in range(2):
        (root / f"masks/im{i}.png").rename(root / f"images/im{i}_masks.png")
    assert ids(root, masks="images") == {f"im{i}": f"im{i}_masks.png" for i in range(2)}
    for i in range(2):
        (root / f"images/im{i}_masks.png").unlink()
    with pytest.raises(UserError, match="images: holds images and masks, but no NAME_mask beside"):
        ids(root, masks="images")


@pytest.mark.parametrize("inner", ["images", "masks"])
def test_one_folder_in_the_other(tmp_path: Path, inner: str) -> None:
    root = write_pairs(tmp_path, number=2)
    outer = {"images": "masks", "masks": "images"}[inner]
    (root / inner).rename(root / outer / inner)
    names = {outer: outer, inner: f"{outer}/{inner}"}
    assert ids(root, **names) == {f"im{i}": f"im{i}.png" for i in range(2)}


def test_junk_does_not_fill_a_folder_of_objects(tmp_path: Path) -> None:
    for i in range(2):
        image, labels = picture(i)
        write_png(tmp_path / f"images/im{i}.png", image)
        write_png(tmp_path / f"masks/im{i}/1.png", (labels == 1) * np.uint8(255))
    (tmp_path / "masks/im1/1.png").unlink()
    for junk in (".DS_Store", "Thumbs.db"):
        (tmp_path / "masks/im1" / junk).write_bytes(b"x")
    assert ids(tmp_path, "objects") == {"im0": "1.png", "im1": ""}


def test_fit_follows_links_and_names_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_pairs(tmp_path / "data", number=2)
    for part in ("images", "masks"):
        store = tmp_path / "store" / part
        store.mkdir(parents=True)
        (root / part / "im1.png").rename(store / "im1.png")
        (root / part / "p2").symlink_to(store)
    (root / "images/raw.czi").touch()
    (root / "images/\x1b[31m.txt").touch()
    assert list(ids(root)) == ["im0", "p2/im1"] == list(ids(root))
    assert capsys.readouterr().err == (
        f"passed over  {root}/images: images of kinds that are not read: 1 (raw.czi: save them "
        "as TIFF or PNG, or pip install 'biomedical-segmentation[bioio]'); other files: 1 "
        "(\\x1b[31m.txt)\n"  # once
    )
    (root / "images/im9.png").symlink_to("/nowhere/im9.png")
    (root / "masks/im9.png").symlink_to(root / "masks/im0.png")
    with pytest.raises(UserError, match=r"im9\.png: cannot be read \(No such file"):
        list(FolderDataset(root))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_pipes_are_refused_in_every_reader(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, number=2)
    (root / "images/im0.png").unlink()
    os.mkfifo(root / "images/im0.png")
    source = FolderDataset(root)
    with pytest.raises(UserError, match=r"im0\.png: is a pipe, a socket or a device; give a file"):
        source.read(source.index()[0])
