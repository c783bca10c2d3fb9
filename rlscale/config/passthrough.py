"""The options of Megatron, SGLang and the router, read from their installed source.

Importing those packages takes seconds and pulls torch, so the dataclass fields are read with `ast`, inherited ones
included, and kept in a cache file per version. What an option means is in its docstring (Megatron), in its annotation
(SGLang), or in the help of its flag (the router).
"""

from __future__ import annotations

import ast
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

_FORMAT = 2
"""Raised when the cache file's content changes its meaning."""


@dataclass(frozen=True)
class Kind:
    """Where the options of one pass-through node are declared."""

    distribution: str
    package: str
    file: str
    """Path inside the package."""
    cls: str


KINDS = {
    "transformer": Kind("megatron-core", "megatron", "core/transformer/transformer_config.py", "TransformerConfig"),
    "latent_transformer": Kind(
        "megatron-core", "megatron", "core/transformer/transformer_config.py", "MLATransformerConfig"
    ),
    "ddp": Kind(
        "megatron-core",
        "megatron",
        "core/distributed/distributed_data_parallel_config.py",
        "DistributedDataParallelConfig",
    ),
    "optimizer": Kind("megatron-core", "megatron", "core/optimizer/optimizer_config.py", "OptimizerConfig"),
    "server": Kind("sglang", "sglang", "srt/server_args.py", "ServerArgs"),
    "router": Kind("sglang-router", "sglang_router", "router_args.py", "RouterArgs"),
}


@dataclass(frozen=True)
class Option:
    """One option of an installed package."""

    name: str
    types: tuple[str, ...]
    """Plain types that it takes (int, float, bool, str, None); empty where its annotation says something else."""
    default: str
    """As it stands in the source; empty without one."""
    meaning: str
    """What the package says of it, in one line; empty where it says nothing."""


def known_options(kind: str, cache_folder: Path | None = None) -> dict[str, Option] | None:
    """Options by name; kind is a key of `KINDS`. None if the package is not installed.

    A process reads them once, for all folders: `cache_folder` saves the next process from parsing the source.
    """
    if kind not in _KNOWN:
        _KNOWN[kind] = _read(kind, cache_folder)
    return _KNOWN[kind]


_KNOWN: dict[str, dict[str, Option] | None] = {}
"""By kind, what this process has read."""


def _read(kind: str, cache_folder: Path | None) -> dict[str, Option] | None:
    where = KINDS[kind]
    try:
        installed = version(where.distribution)
    except PackageNotFoundError:
        return None
    file = (
        cache_folder / f"options-{where.distribution}-{installed}-{where.cls}-{_FORMAT}.json" if cache_folder else None
    )
    kept = _load(file)
    if kept is not None:
        return kept
    root = _package_root(where.package)
    if root is None or not (root / where.file).is_file():
        return None
    options = {option.name: option for option in _fields(root, root / where.file, where.cls)}
    _keep(file, options)
    return options


def _package_root(package: str) -> Path | None:
    """Folder of a top-level package; finding it imports nothing."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(folders[0]) if folders else None


def _fields(root: Path, file: Path, cls: str) -> list[Option]:
    """Fields of a dataclass, those of its bases first, as `dataclasses.fields` would give them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls), None)
    if node is None:
        return []
    found: dict[str, Option] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found.update(
                {option.name: option for option in _fields(root, _file_of(root, file, tree, base.id), base.id)}
            )
    helps = _helps_of_flags(tree)
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = ast.unparse(statement.annotation)
            if not annotation.startswith(("ClassVar", "typing.ClassVar")):
                name = statement.target.id
                default = "" if statement.value is None else ast.unparse(statement.value)
                meaning = _docstring(following) or _annotated(statement.annotation) or helps.get(name, "")
                found[name] = Option(name, _types(statement.annotation), default, " ".join(meaning.split()))
    return list(found.values())


def _docstring(statement: ast.stmt | None) -> str:
    """The text that stands right below a field."""
    return _text(statement.value) if isinstance(statement, ast.Expr) else ""


def _annotated(annotation: ast.expr) -> str:
    """The help in `A[type, "help"]` or `A[type, Arg(help="help", ...)]`."""
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
        return ""
    texts = (_help(part) if isinstance(part, ast.Call) else _text(part) for part in annotation.slice.elts[1:])
    return next(filter(None, texts), "")


def _helps_of_flags(tree: ast.Module) -> dict[str, str]:
    """The help of every `add_argument(f"--{prefix}some-name", help=...)` in a file, by `some_name`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    flags = {
        _text(call.args[0]).removeprefix("--").replace("-", "_"): _help(call)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    }
    return {name: text for name, text in flags.items() if name and text}


def _help(call: ast.Call) -> str:
    return next((_text(keyword.value) for keyword in call.keywords if keyword.arg == "help"), "")


def _text(node: ast.expr) -> str:
    """A constant text; of an f-string, what is constant in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _file_of(root: Path, file: Path, tree: ast.Module, name: str) -> Path:
    """The file that a base class is imported from; the same file where it is not imported."""
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or name not in [alias.asname or alias.name for alias in node.names]:
            continue
        parts = (node.module or "").split(".") if node.module else []
        folder = file.parent
        if node.level == 0:
            folder, parts = root, parts[1:]
        for _ in range(node.level - 1):
            folder = folder.parent
        path = folder.joinpath(*parts)
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file


def _types(annotation: ast.expr) -> tuple[str, ...]:
    """Plain types of an annotation, () where it holds anything else."""
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value).rpartition(".")[2]
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if outer in ("A", "Annotated"):
            return _types(inner[0])
        if outer == "Optional":
            types = _types(inner[0])
            return (*types, "None") if types else ()
        if outer == "Union":
            return _union([_types(part) for part in inner])
        return ()
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _union([_types(annotation.left), _types(annotation.right)])
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return ("None",)
    if isinstance(annotation, ast.Name) and annotation.id in ("int", "float", "bool", "str"):
        return (annotation.id,)
    return ()


def _union(parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for part in parts for name in part) if all(parts) else ()


def _load(file: Path | None) -> dict[str, Option] | None:
    if file is None:
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {item["name"]: Option(**{**item, "types": tuple(item["types"])}) for item in kept}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path | None, options: dict[str, Option]) -> None:
    """Write the cache file whole or not at all; a folder that cannot be written to costs time, no more."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump([asdict(option) for option in options.values()], out)
        os.replace(partial, file)
    except OSError:
        return
