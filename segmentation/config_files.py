"""Config files: found by name from anywhere, and put together from the parts that they name."""

import argparse
import contextlib
import os
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from segmentation.errors import UserError
from segmentation.io.files import check_regular

LARGEST, DEEPEST = 50_000, 100  # values of a file, and levels of them
PARTS = 200  # of a config
_PARTS = ("cluster/", "corrections/", "data/", "model/", "sweeps/", "trainer/")  # of configs


def configs_folder() -> Path:
    """The folder of the shipped configs: inside the installed package, or beside a checkout's."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str | Path) -> Path:
    """A config file, or a folder of them: one that exists, or else the shipped one of that name.

    ``name`` is a path, or a name below the shipped configs, with or without ``.yaml``; that there
    is none is a :class:`UserError`.

    >>> find_config("folder").name
    'folder.yaml'
    """
    folder = configs_folder()
    below = folder / str(name).removeprefix("configs/")
    places = (Path(name), below, below.with_name(f"{below.name}.yaml"))
    for found in (*filter(os.path.isfile, places), *filter(os.path.isdir, places)):
        return found
    names = (p.relative_to(folder).with_suffix("").as_posix() for p in folder.glob("**/*.yaml"))
    complete = sorted(n for n in names if not n.startswith((*_PARTS, "reproduce/")))
    raise UserError(
        f"{name}: no such config; give a file, or one of those that come with the package: "
        f"{', '.join(complete)}"
    )


class TooMuch(yaml.YAMLError):
    """More values, or levels of them, than anyone means."""


class Strict:
    """For a YAML loader: no key is there twice, and a few lines do not become millions of values.

    A part that is repeated by its name (``*a``) counts each time, for others copy it.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        own: Any = super()
        sizes: dict[Any, int] = self.__dict__.setdefault("_sizes", {})
        repeated = self.check_event(yaml.AliasEvent)  # type: ignore[attr-defined]
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > DEEPEST or len(sizes) > LARGEST:
            raise TooMuch(f"nested more than {DEEPEST} deep, or more than {LARGEST:,} values")
        node = own.compose_node(parent, index)
        self._depth -= 1
        if not repeated:
            inner = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                inner = [one for pair in inner for one in pair]
            # Only what holds this one has no size yet: a circle.
            sizes[node] = 1 + sum(sizes.get(one, LARGEST) for one in inner)
            if sizes[node] > LARGEST:
                raise TooMuch(f"more than {LARGEST:,} values, or a part within itself")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = Counter(str(key.value) for key, _ in node.value if key.value != "<<")
        if (often := names.most_common(1)) and often[0][1] > 1:
            what = f"{often[0][0]} is there twice"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        own: Any = super()
        mapping: dict[Hashable, Any] = own.construct_mapping(node, deep)
        return mapping


class Loader(Strict, yaml.SafeLoader):
    """YAML as people mean it: 1e-4 is a number, and ``off`` is text."""


Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if first not in "oO" or not pair[0].endswith(":bool")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, or a :class:`UserError` that says what is wrong with it."""
    try:
        content = load_yaml(read_text(path), Loader)
    except yaml.YAMLError as error:
        where = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise UserError(f"{path}: not valid YAML ({where}); correct it") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: must be a mapping of keys, this is {type(content).__name__}; correct it"
        )
    for key in (key for key in content if not isinstance(key, str)):
        raise UserError(f"{path}: the key {key} must be text; correct it")
    return content


def load_yaml(text: str, loader: Any) -> Any:
    """What a text means to a loader; whatever is wrong with it is a ``YAMLError``.

    >>> load_yaml("{a: 1e-4, b: off}", Loader)
    {'a': 0.0001, 'b': 'off'}
    """
    try:
        return yaml.load(text, loader)
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # of dates and tags
        raise yaml.YAMLError(str(error)) from None


def check_typed(option: str, value: str) -> None:
    """Raise :class:`UserError` for a typed value that would outlast memory or patience."""
    if "*" in value or max(map(value.count, "[{-")) > DEEPEST:
        with contextlib.suppress(yaml.YAMLError):  # a text
            try:
                load_yaml(value, Loader)
            except TooMuch as error:
                raise UserError(f"{option} {value[:20]}…: {error}; correct it") from None


def read_text(path: Path) -> str:
    """A text file in UTF-8, of at most a megabyte; anything else is a :class:`UserError`."""
    check_regular(path)
    try:
        if (size := path.stat().st_size) > 2**20:
            raise UserError(f"{path}: {size:,} bytes are too many for a text; check the path")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 ({error}); save it as UTF-8") from None


def read_parts(
    path: Path, above: tuple[Path, ...] = (), seen: list[Path] | None = None
) -> list[dict[str, Any]]:
    """A config's parts, in the order in which later ones win.

    An experiment lists its parts under ``compose``, relative to itself or as names of shipped ones;
    what it says beside that wins over them. ``above`` are files that compose this one, ``seen`` all
    that were read for it so far. A file that is missing or not YAML, or files that name each other
    in a circle, are a :class:`UserError`.
    """
    if path.resolve() in above:
        raise UserError(f"{path}: composes itself; take it out of its own parts")
    seen = [] if seen is None else seen
    seen.append(path)
    if len(seen) > PARTS:
        raise UserError(f"{path}: is one of more than {PARTS} parts of a config; list fewer")
    content = read_yaml(path)
    content.pop("reproduces", None)  # for people and for `segmentation reproduce`
    parts: list[dict[str, Any]] = []
    composed = content.pop("compose", [])
    if not isinstance(composed, list) or not all(isinstance(name, str) for name in composed):
        raise UserError(f"{path}: compose: {composed} must be a list of files; correct it")
    for name in composed:
        beside = path.parent / name
        part = beside if os.path.lexists(beside) else find_config(name)
        parts += read_parts(part, (*above, path.resolve()), seen)
    return [*parts, content] if content else parts


def run_home(options: Sequence[str], configs: Sequence[str] = (), folds: int | None = None) -> Path:
    """The folder in which a run, or the ``folds`` of a cross-validation, will get theirs.

    >>> run_home(["--run.name=mine"], ["folder"], 5).as_posix()
    'runs/mine-5fold'
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[*configs])
    parser.add_argument("--run.root")
    parser.add_argument("--run.name")
    typed = argparse.Namespace(config=[*configs])
    with contextlib.suppress(argparse.ArgumentError):  # said by the parser of all options
        typed = parser.parse_known_args(options)[0]
    where: dict[str, Any] = {"root": "runs", "name": "unnamed"}
    for part in (part for name in typed.config for part in read_parts(find_config(name))):
        where |= part["run"] if isinstance(part.get("run"), dict) else {}
    where |= {key: value for key in where if (value := getattr(typed, f"run.{key}", None))}
    return Path(str(where["root"]), f"{where['name']}" + (f"-{folds}fold" if folds else ""))


def copy_config(config: str, output: Path) -> None:
    """Write one of the shipped configs, put together, as one file that must not exist yet."""
    text = f"# From the shipped config {config}. Train with: segmentation fit --config {output}\n"
    write_new(output, text + yaml.safe_dump(merged(config), sort_keys=False, allow_unicode=True))
    print(output)


def merged(config: str) -> dict[str, Any]:
    """A config, put together of its parts, as one mapping."""
    whole: dict[str, Any] = {}
    for part in read_parts(find_config(config)):
        _merge(whole, part)
    return whole


def write_new(output: Path, text: str) -> None:
    """Write a text to a file that must not exist yet; a :class:`UserError` if it does."""
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with contextlib.suppress(OSError):
                output.unlink()  # half of it
        raise UserError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from None


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    """Mappings are merged key by key, but another class brings its own arguments."""
    for key, value in part.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            mine = old.get("class_path")
            if value.get("class_path", mine) == mine:
                _merge(old, value)
                continue
        into[key] = value
