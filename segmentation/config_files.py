"""Config files: found by name from anywhere, and put together from the parts that they name."""

import argparse
import contextlib
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from segmentation.errors import UserError

_PARTS = ("cluster/", "corrections/", "data/", "model/", "sweeps/", "trainer/")  # of configs


def configs_folder() -> Path:
    """The folder of the shipped configs: inside the installed package, or beside a checkout's."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str | Path) -> Path:
    """A config file, or a folder of them: one that exists, or else the shipped one of that name.

    Args:
        name: A path, or a name below the shipped configs, with or without ``.yaml``.

    Raises:
        UserError: There is none.

    >>> find_config("folder").name
    'folder.yaml'
    """
    folder = configs_folder()
    below = folder / str(name).removeprefix("configs/")
    places = (Path(name), below, below.with_name(f"{below.name}.yaml"))
    for found in (*filter(Path.is_file, places), *filter(Path.is_dir, places)):
        return found
    names = (p.relative_to(folder).with_suffix("").as_posix() for p in folder.glob("**/*.yaml"))
    complete = sorted(n for n in names if not n.startswith((*_PARTS, "reproduce/")))
    raise UserError(
        f"{name}: no such config; give a file, or one of those that come with the package: "
        f"{', '.join(complete)}"
    )


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-4 is a number, ``off`` is text, and no key is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [str(key.value) for key, _ in node.value if key.value != "<<"]
        for name in (name for name in names if names.count(name) > 1):
            what = f"{name} is there twice"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if first not in "oO" or not pair[0].endswith(":bool")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        where = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise UserError(f"{path}: not valid YAML ({where}); correct it") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: must be a mapping of keys, this is {type(content).__name__}; correct it"
        )
    return content


def read_parts(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """A config's parts, in the order in which later ones win.

    An experiment lists its parts under ``compose``, relative to itself or as names of shipped ones;
    what it says beside that wins over them.

    Args:
        path: The file.
        above: Files that compose this one.

    Raises:
        UserError: A file is missing or not YAML, or files name each other in a circle.
    """
    if path.resolve() in above:
        raise UserError(f"{path}: composes itself; take it out of its own parts")
    content = read_yaml(path)
    content.pop("reproduces", None)  # for people and for `segmentation reproduce`
    parts: list[dict[str, Any]] = []
    composed = content.pop("compose", [])
    if not isinstance(composed, list) or not all(isinstance(name, str) for name in composed):
        raise UserError(f"{path}: compose: {composed} must be a list of files; correct it")
    for name in composed:
        beside = path.parent / name
        part = beside if beside.exists() else find_config(name)
        parts += read_parts(part, (*above, path.resolve()))
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


def init(config: str = "folder", /, output: Path = Path("config.yaml")) -> None:
    """Write one of the shipped configs as one file, to start your own from.

    Args:
        config: Its name, such as ``folder`` or ``dsb2018/unet_small``.
        output: The file; must not exist yet.

    Raises:
        UserError: No config is called so, or the file exists or cannot be written.
    """
    merged: dict[str, Any] = {}
    for part in read_parts(find_config(config)):
        _merge(merged, part)
    text = f"# From the shipped config {config}. Train with: segmentation fit --config {output}\n"
    text += yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)
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
    print(output)


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
