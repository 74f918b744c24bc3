"""From nothing, or from archives at hand, to a folder that ``fit`` can read: checked and counted.

Everything is fetched and unpacked under temporary names before the first folder gets its own, so
an interruption leaves nothing that a reader would take for the dataset.
"""

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from segmentation.data.cache import Store, decoded
from segmentation.datasets.download import download
from segmentation.datasets.official import DATASETS, Official, Piece
from segmentation.datasets.unpack import differences, stage
from segmentation.errors import UserError
from segmentation.io.files import sha256_of

ARCHIVES = "archives"  # where downloads are kept, out of the readers' sight


def prepare(name: str, root: Path, archives: Sequence[Path] = (), url_base: str = "") -> None:
    """Fetch, verify, unpack and check a dataset, and print what was found.

    What is there already is verified and left alone.

    Args:
        name: One of :data:`DATASETS`.
        root: Folder to make it in.
        archives: Official files that are at hand; with any, nothing is downloaded.
        url_base: Folder of a mirror with the files under their official names.

    Raises:
        UserError: A file cannot be had, is broken or malicious, or the dataset's reader refuses it.
    """
    official = DATASETS[name]
    root = root.expanduser()
    given = _given(name, official, archives)
    with _locked(root):
        files = {piece: _at_hand(piece, root, given) for piece in official.pieces}
        missing = [p for p, file in files.items() if file is None and not _exists(root, p)]
        if missing and archives:
            _do_without(missing)
        elif missing and not (official.url or url_base):
            raise UserError(_login(name, official, root))
        else:
            for piece in missing:
                files[piece] = _fetch(piece, root, url_base or official.url)
        for piece, file in files.items():
            if file is not None:
                _verify(piece, file, root)
        _unpack(root, {piece: file for piece, file in files.items() if file is not None})
    store = decoded(official.open(root))
    print(f"{name} in {root}")
    for label, text in facts(store).items():
        print(f"  {label:<10}{text}")
    for line in shortages(store, official):
        _warn(line)
    if (root / ARCHIVES).is_dir():
        print(f"{root / ARCHIVES} is no longer needed and may be removed")
    print(f"next: segmentation fit --config {official.config} --data.root {shlex.quote(str(root))}")


def facts(store: Store) -> dict[str, str]:
    """What a dataset holds, in words by topic."""
    entries = store.entries
    objects = [e.objects for e in entries if e.objects is not None]
    ranges: dict[str, list[int]] = {}
    for sample in store:
        seen = ranges.setdefault(str(sample.image.dtype), [])
        seen[:] = min([*seen, int(sample.image.min())]), max([*seen, int(sample.image.max())])
    found = {
        "images": f"{len(entries):,}",
        "subsets": _counts([e.subset for e in entries if e.subset]),
        "groups": _counts([e.group for e in entries if e.group]),
        "kinds": _counts([e.kind for e in entries if e.kind]),
        "sizes": _counts(["×".join(map(str, e.image[1][:2])) for e in entries]) + " (H×W)",
        "channels": _counts([f"{e.image[1][2]}" for e in entries]),
        "values": ", ".join(f"{kind} {low}–{high}" for kind, (low, high) in ranges.items()),
    }
    if objects:
        least, middle, most = np.percentile(objects, (0, 50, 100))
        per_image = f"{least:g} / {middle:g} / {most:g} an image (min / median / max)"
        found["objects"] = f"{sum(objects):,}; {per_image}"
        found["empty"] = f"{objects.count(0):,} images without objects"
    if without := len(entries) - len(objects):
        found["no truth"] = f"{without:,} images"
    return {label: text for label, text in found.items() if text}


def shortages(store: Store, official: Official) -> list[str]:
    """One line for each count that stays behind the official one."""
    lines = []
    for what, counts in (("images", official.images), ("objects", official.objects)):
        for subset, wanted in counts.items():
            entries = [e for e in store.entries if subset in ("", e.subset)]
            found = len(entries) if what == "images" else sum(e.objects or 0 for e in entries)
            if found < wanted:
                of = f" of the subset {subset}" if subset else ""
                lines.append(f"{found:,} of the official {wanted:,} {what}{of} are here")
    return lines


def _given(name: str, official: Official, archives: Sequence[Path]) -> dict[Piece, Path]:
    accepted = {n.lower(): p for p in official.pieces for n in (p.file, p.inside) if n}
    given: dict[Piece, Path] = {}
    for path in (archive.expanduser() for archive in archives):
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"{path}: {what}; --archive takes the files of {name}")
        piece = accepted.get(path.name.lower())
        if piece is None:
            names = ", ".join(n for p in official.pieces for n in (p.file, p.inside) if n)
            raise UserError(f"{path}: {name} has no such file; rename it if it is one of {names}")
        if piece in given:
            raise UserError(f"{path}: {given[piece]} is the same part of {name}; give one")
        given[piece] = path
    return given


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".prepare.lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"{root}: is being prepared by another process; wait for it") from None
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: cannot be written ({error.strerror}); choose a folder with "
            "write access and free space"
        ) from None


def _at_hand(piece: Piece, root: Path, given: Mapping[Piece, Path]) -> Path | None:
    if piece in given:
        return given[piece]
    names = [name for name in (piece.file, piece.inside) if name]
    places = [folder / name for name in names for folder in (root / ARCHIVES, root)]
    return next((path for path in places if path.is_file()), None)


def _exists(root: Path, piece: Piece) -> bool:
    target = root / piece.target
    return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _do_without(missing: Sequence[Piece]) -> None:
    for piece in missing:
        if piece.needed:
            raise UserError(
                f"{piece.file}: not among what --archive names; give it too, or leave --archive "
                "out to download it"
            )
        _warn(f"goes on without {piece.file}, which --archive does not name")


def _login(name: str, official: Official, root: Path) -> str:
    archive = official.pieces[0].inside
    return (
        f"{name}: {official.login} and `segmentation prepare {name} --root "
        f"{shlex.quote(str(root))} --archive {archive}` (or --archive {official.pieces[0].file})"
    )


def _fetch(piece: Piece, root: Path, base: str) -> Path:
    url, target = f"{base.rstrip('/')}/{piece.file}", root / ARCHIVES / piece.file
    print(f"{piece.file}: from {url}")
    download(url, target, piece.sha256)
    return target


def _verify(piece: Piece, file: Path, root: Path) -> None:
    try:
        found = sha256_of(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    if not piece.sha256 or file.name.lower() == piece.inside:
        print(f"{file.name}: SHA-256 {found} (no official one is known)")
    elif found == piece.sha256:
        print(f"{file.name}: SHA-256 is the official one")
    else:
        _warn(
            f"{file}: not the official file, whose SHA-256 is {piece.sha256}: its is {found}; "
            "going on with it"
        )
    folder = root / piece.target
    if piece.target != piece.file and _exists(root, piece):
        changed = differences(file, folder)
        if changed:
            more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
            _warn(
                f"{folder / changed[0]}{more}: missing or not as in {file.name}; remove {folder} "
                "and run this again to restore it"
            )
        else:
            print(f"{piece.target}: is there, as in {file.name}")


def _unpack(root: Path, files: Mapping[Piece, Path]) -> None:
    """All under temporary names first, then all renamed at once, what is needed last."""
    staged = []
    try:
        for piece, file in files.items():
            target = root / piece.target
            if _exists(root, piece):
                continue
            if piece.target != piece.file:
                partial = stage(file, target)
            else:
                partial = target.with_name(f".{target.name}.part")
                shutil.copyfile(file, partial)
            staged.append((partial, target))
        for partial, target in staged:
            if target.is_dir():
                target.rmdir()
            partial.replace(target)
            print(f"{target.name}: unpacked")
    finally:  # also on Ctrl-C
        for partial, _ in staged:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)


def _counts(values: Sequence[str]) -> str:
    """Such as "256×256 334, 256×320 112, … (9 in all)", the most frequent first."""
    counts = Counter(values).most_common()
    if not counts:
        return ""
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts[:6])
    return shown if len(counts) <= 6 else f"{shown}, … {len(counts)} in all"


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
