"""From nothing, or from archives at hand, to a folder that ``fit`` can read: checked and counted.

Everything is fetched and unpacked under temporary names before the first folder gets its own, so
an interruption leaves nothing that a reader would take for the data set.
"""

import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from filelock import FileLock, Timeout

from segmentation import datasets
from segmentation.data.cache import SampleStore, decoded
from segmentation.datasets.http import download
from segmentation.datasets.unpack import differences, unpack
from segmentation.errors import UserError
from segmentation.io.files import sha256_of, unwritten

Name = Literal[
    "dsb2018", "dsb2018_stardist", "bbbc039", "dic_hela", "phc_u373", "fluo_hela",
    "ultrasound_nerve",
]  # fmt: skip
ARCHIVES = "archives"  # where downloads are kept, out of the readers' sight


@dataclass(frozen=True)
class Official:
    """A data set as its authors distribute it; ``official.yaml`` says what each field is."""

    reader: str
    config: str
    files: Mapping[str, str]
    images: Mapping[str, int]
    objects: Mapping[str, int] = field(default_factory=dict)
    url: str = ""
    login: str = ""
    optional: Sequence[str] = ()
    bundle: str = ""


with Path(__file__).with_name("official.yaml").open(encoding="utf-8") as table:
    DATASETS = {name: Official(**row) for name, row in yaml.safe_load(table).items()}


def prepare(
    dataset: Name, /, root: Path, archive: Sequence[Path] | None = None, url_base: str = ""
) -> None:
    """Download, verify, unpack and check a public data set, and print what it holds.

    An interrupted download goes on where it stopped. ultrasound_nerve needs a login: this command
    says what to do.

    Args:
        dataset: Which.
        root: Folder to make it in; what is there already is verified and kept.
        archive: Official files that are at hand; with any, nothing is downloaded.
        url_base: A mirror's folder that holds the files.
    """
    official, root = DATASETS[dataset], root.expanduser()
    given = [path.expanduser() for path in archive or ()]
    for path in given:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"{path}: {what}; --archive takes the files of {dataset}")
    with _locked(root):
        files = _collect(dataset, root, given, url_base or official.url)
        for name, file in files.items():
            wanted = "" if file.name == official.bundle else official.files[name]
            if not wanted:
                print(f"{file.name}: SHA-256 {sha256_of(file)} (no official one is known)")
            elif (found := sha256_of(file)) == wanted:
                print(f"{file.name}: SHA-256 is the official one")
            else:
                what = f"not the official file, whose SHA-256 is {wanted}: its is {found}"
                _say(f"{file}: {what}; going on with it")
        _unpack(root, files)
    store = decoded(getattr(datasets, official.reader)(str(root)))
    print(f"{dataset} in {root}")
    for label, text in facts(store).items():
        print(f"  {label:<10}{text}")
    for line in shortages(store, official):
        _say(line)
    if (root / ARCHIVES).is_dir():
        print(f"{root / ARCHIVES} is no longer needed and may be removed")
    print(f"next: segmentation fit --config {official.config} --data.root {shlex.quote(str(root))}")


def facts(store: SampleStore) -> dict[str, str]:
    """What a data set holds, in words by topic."""
    entries = store.entries
    objects = [e.objects for e in entries if e.objects is not None]
    extremes = defaultdict[str, list[int]](list)
    for sample in store:
        extremes[str(sample.image.dtype)] += int(sample.image.min()), int(sample.image.max())
    found = {
        "images": f"{len(entries):,}",
        "subsets": _counts([e.subset for e in entries if e.subset]),
        "groups": _counts([e.group for e in entries if e.group]),
        "kinds": _counts([e.kind for e in entries if e.kind]),
        "sizes": _counts(["×".join(map(str, e.image[1][:2])) for e in entries]) + " (H×W)",
        "channels": _counts([f"{e.image[1][2]}" for e in entries]),
        "values": ", ".join(f"{kind} {min(seen)}–{max(seen)}" for kind, seen in extremes.items()),
    }
    if objects:
        least, middle, most = np.percentile(objects, (0, 50, 100))
        per_image = f"{least:g} / {middle:g} / {most:g} an image (min / median / max)"
        found["objects"] = f"{sum(objects):,}; {per_image}"
        found["empty"] = f"{objects.count(0):,} images without objects"
    if without := len(entries) - len(objects):
        found["no truth"] = f"{without:,} images"
    return {label: text for label, text in found.items() if text}


def shortages(store: SampleStore, official: Official) -> list[str]:
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


def _collect(dataset: str, root: Path, given: Sequence[Path], base: str) -> dict[str, Path]:
    """The official files by name: given, in the root or its archives, or downloaded."""
    official, files = DATASETS[dataset], dict[str, Path]()
    missing = []
    for name in official.files:
        names = [name, official.bundle] if official.bundle else [name]
        places = [p for p in given if p.name.lower() in map(str.lower, names)]
        places += [folder / n for n in names for folder in (root / ARCHIVES, root)]
        if found := next((path for path in places if path.is_file()), None):
            files[name] = found
        elif not _there(root / name.removesuffix(".zip")):
            missing.append(name)
    if unused := [path for path in given if path not in files.values()]:
        raise UserError(
            f"{unused[0]}: no file of {dataset}, or the same part as another; give one of each of "
            f"{', '.join(official.files)} {official.bundle and f'(or {official.bundle})'}".rstrip()
        )
    for name in missing:
        if given and name in official.optional:
            _say(f"goes on without {name}, which --archive does not name")
        elif given:
            what = "not among what --archive names; give it too, or leave --archive out"
            raise UserError(f"{name}: {what} to download it")
        elif not base:
            again = f"segmentation prepare {dataset} --root {shlex.quote(str(root))} --archive"
            raise UserError(
                f"{dataset}: {official.login} and `{again} {official.bundle}` (or --archive {name})"
            )
        else:
            print(f"{name}: from {base}")
            files[name] = root / ARCHIVES / name
            download(f"{base.rstrip('/')}/{name}", files[name], official.files[name])
    return {name: files[name] for name in official.files if name in files}


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    with unwritten(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(root / ".prepare.lock", timeout=0):
                yield
        except Timeout:
            raise UserError(f"{root}: is being prepared by another process; wait for it") from None


def _there(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _unpack(root: Path, files: Mapping[str, Path]) -> None:
    """All under temporary names first, then all renamed at once, what is needed last."""
    ready: list[tuple[Path, Path]] = []
    partials = []
    try:
        for name, file in files.items():
            target = root / name.removesuffix(".zip")
            if _there(target):
                if target.is_dir():
                    _check_unpacked(file, target)
                continue
            partials.append(partial := root / f".{target.name}.part")
            if file.suffix == ".zip":
                ready.append((unpack(file, partial, target.name), target))
            else:
                shutil.copyfile(file, partial)
                ready.append((partial, target))
        for found, target in ready:
            if target.is_dir():
                target.rmdir()
            found.replace(target)
            print(f"{target.name}: unpacked")
    finally:  # also on Ctrl-C
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)


def _check_unpacked(file: Path, target: Path) -> None:
    if changed := differences(file, target):
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        _say(
            f"{target / changed[0]}{more}: missing or not as in {file.name}; remove {target} and "
            "run this again to restore it"
        )
    else:
        print(f"{target.name}: is there, as in {file.name}")


def _counts(values: Sequence[str]) -> str:
    """Such as "256×256 (334), 256×320 (112), … 9 in all", the most frequent first."""
    counts = Counter(values).most_common()
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts[:6])
    return shown if len(counts) <= 6 else f"{shown}, … {len(counts)} in all"


def _say(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
