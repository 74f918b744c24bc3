"""Classes as their source says it: nothing is imported, which would take seconds.

Only the packages below are read; of others nothing is known.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_READ = ("segmentation", "lightning", "torch", "segmentation_models_pytorch")


@dataclass(frozen=True)
class Argument:
    """One argument: its type and default as they are written, and the class that has it."""

    kind: str
    default: str | None  # ``None``: it has to be given
    owner: "SourceClass"


@dataclass(frozen=True)
class SourceClass:
    module: str
    node: ast.ClassDef

    @property
    def first_line(self) -> str:
        """Of its docstring."""
        return (ast.get_docstring(self.node) or "").partition("\n")[0]

    @property
    def path(self) -> str:
        return f"{self.module}.{self.node.name}"

    def parameters(self) -> tuple[dict[str, Argument], bool]:
        """What it is built from, and whether that is all."""
        made = {f.name: f for f in self.node.body if isinstance(f, ast.FunctionDef)}
        if "__init__" not in made:
            keys, whole = self._inherited()
            if any("dataclass" in ast.unparse(d) for d in self.node.decorator_list):
                whole = True  # by its fields and nothing else
                for field in (n for n in self.node.body if isinstance(n, ast.AnnAssign)):
                    default = None if field.value is None else ast.unparse(field.value)
                    kind = ast.unparse(field.annotation)
                    keys[ast.unparse(field.target)] = Argument(kind, default, self)
            return keys, whole
        arguments = made["__init__"].args
        named = [*arguments.posonlyargs, *arguments.args][1:]
        defaults = [None] * (len(named) - len(arguments.defaults)) + [*arguments.defaults]
        pairs = [
            *zip(named, defaults, strict=False),
            *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
        ]
        keys = {
            a.arg: Argument(
                "" if a.annotation is None else ast.unparse(a.annotation),
                None if default is None else ast.unparse(default),
                self,
            )
            for a, default in pairs
        }
        if arguments.kwarg is None:
            return keys, True
        more, whole = self._inherited()
        handed = False  # what is not named, to the class above
        for call in ast.walk(made["__init__"]):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                given = [*[*more][: len(call.args)], *(k.arg for k in call.keywords)]
                more = {name: key for name, key in more.items() if name not in given}
                handed = None in given
        return more | keys, whole and handed

    def _inherited(self) -> tuple[dict[str, Argument], bool]:
        for base in self.node.bases:
            name = ast.unparse(base)
            if (found := find_class(f"{self.module}.{name}") or find_class(name)) is not None:
                return found.parameters()
        return {}, False

    def named_by(self, kind: str) -> "SourceClass | None":
        """The dataclass that an annotation in this class names."""
        for name in re.findall(r"\b[A-Z]\w+", kind):
            found = find_class(f"{self.module}.{name}")
            if found and any("dataclass" in ast.unparse(d) for d in found.node.decorator_list):
                return found
        return None

    def about(self) -> dict[str, str]:
        """What its docstring says of each argument, in one line."""
        from docstring_parser import parse

        doc = parse(ast.get_docstring(self.node) or "")
        method = (n for n in self.node.body if isinstance(n, ast.FunctionDef))
        init = next((n for n in method if n.name == "__init__"), self.node)
        params = [*doc.params, *parse(ast.get_docstring(init) or "").params]
        found = {
            name.strip(): " ".join((p.description or "").replace("``", "").split())
            for p in params
            for name in p.arg_name.split(",")
        }
        for base in self.node.bases:
            name = ast.unparse(base)
            if above := find_class(f"{self.module}.{name}"):
                found = above.about() | found
        return found


@cache
def module_tree(module: str) -> tuple[ast.Module, bool] | None:
    """A module's source, and whether it is a package."""
    top, *below = module.split(".")
    if (spec := importlib.util.find_spec(top)) is None or not spec.origin:
        return None
    path = Path(spec.origin)
    if below:
        path = path.parent.joinpath(*below)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return None
    return ast.parse(path.read_text(encoding="utf-8")), path.name == "__init__.py"


def imported_names(module: str) -> Iterator[tuple[str, str, str]]:
    """What a module imports by name: (as, from, name)."""
    found = module_tree(module)
    assert found is not None
    for node in ast.walk(found[0]):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = module.split(".")
        above = parts[: len(parts) - node.level + found[1]] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, source, alias.name


@cache
def find_class(path: str) -> SourceClass | None:
    """A class by its import path, followed to where it is defined; ``None``: not to be read."""
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] not in _READ or (tree := module_tree(module)) is None:
        return None
    for node in tree[0].body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return SourceClass(module, node)
    for known, source, original in imported_names(module):
        wanted = known in (name, "*") and source != module
        if wanted and (found := find_class(f"{source}.{name if known == '*' else original}")):
            return found
    return None
