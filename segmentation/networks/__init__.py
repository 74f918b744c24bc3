"""Networks that come with the package, called by their names instead of a path."""

from pathlib import Path

FOLDER = Path(__file__).parent


def shipped_networks() -> list[str]:
    """The names of the networks that come with the package.

    >>> shipped_networks()
    ['nuclei']
    """
    return sorted(path.stem for path in FOLDER.glob("*.ckpt"))


def find_checkpoint(path: str | Path) -> Path:
    """The file of a checkpoint: a path as it is, or the shipped network of that name.

    A file in the current folder that is called so wins.

    >>> find_checkpoint("nuclei").name, find_checkpoint("best.ckpt").name
    ('nuclei.ckpt', 'best.ckpt')
    """
    found = Path(path)
    if found.is_file() or str(path) not in shipped_networks():
        return found
    return FOLDER / f"{path}.ckpt"
