"""The house has floors, and an import may only go down: the imports of the package are read and held to that."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "vaerdict"

FLOORS = {
    **dict.fromkeys(("vae", "data", "results", "seeds", "options", "lipschitz"), 1),
    **dict.fromkeys(("models", "checker"), 2),
    **dict.fromkeys(("certify", "attacks"), 3),
    **dict.fromkeys(("reports", "sweeps"), 4),
    "tasks": 5,
    **dict.fromkeys(("demo", "arguments"), 6),
    "cli": 7,
}
FACADE, FACADE_FLOOR = "__init__", 8
"""The package's own `__init__.py` stands on the roof: it may show everything, and nothing below may import it."""

GROUND = frozenset({"vae", "data", "results", "seeds", "options"})
"""The parts of floor 1 that may import each other."""

ONLY = {"reports": {"results"}, "lipschitz": set[str]()}
"""All that these may import of the package, besides themselves."""

NEVER = {"attacks": {"certify", "lipschitz", "models"}, "certify": {"attacks"}}
"""An attack is an independent witness: neither side of a comparison may share code with the other."""

NO_TORCH = frozenset({"reports", "results", "options", "checker"})
"""These run without torch, and so import neither it nor a part of the package that does."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import: the part of the package that makes it, the part or the package that it gets, and where."""

    source: str
    target: str
    torch: bool
    place: str


def part(name: str, package: str) -> str | None:
    """Give `certify` for `vaerdict.certify.margin`, the facade for `vaerdict`, None outside the package."""
    first, *rest = name.split(".")
    if first != package:
        return None
    return rest[0] if rest else FACADE


def imported_names(node: ast.AST, module: str, package: Path) -> list[str]:
    """Give the dotted names that a statement imports; `module` is the dotted name of the file's package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = module.split(".")[: len(module.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*parents, *([node.module] if node.module else [])])
        # `from vaerdict import certify` imports the folder, other names ask the facade; its constants, such as
        # `__version__`, are there whatever is imported, and so tie nobody to anything.
        names = [alias.name for alias in node.names if origin != package.name or not alias.name.startswith("__")]
        return [f"{origin}.{name}" if is_part(origin, name, package) else origin for name in names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return [str(node.args[0].value)] if called in ("import_module", "__import__") else []
    return []


def is_part(origin: str, name: str, package: Path) -> bool:
    return origin == package.name and ((package / name).is_dir() or (package / f"{name}.py").is_file())


def read_imports(package: Path) -> Iterator[Import]:
    """Read the imports of every file of a package, those inside functions included."""
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        module = ".".join([package.name, *relative.parent.parts])
        for node in ast.walk(ast.parse(path.read_text())):
            for name in imported_names(node, module, package):
                target, torch = part(name, package.name), name.split(".")[0] == "torch"
                if target or torch:
                    place = f"{package.name}/{relative}:{getattr(node, 'lineno', 0)}"
                    yield Import(
                        source=relative.parts[0].removesuffix(".py"), target=target or name, torch=torch, place=place
                    )


def floor(name: str) -> int:
    return FACADE_FLOOR if name == FACADE else FLOORS[name]


def fault(found: Import) -> str | None:
    """Say what is wrong with an import, or None."""
    source, target = found.source, found.target
    if found.torch:
        return "must run without torch" if source in NO_TORCH else None
    if source == target:
        return None
    if target in NEVER.get(source, set()):
        return f"must never import {target}"
    if source in ONLY and target not in ONLY[source]:
        return f"may import only {sorted(ONLY[source]) or 'itself'}"
    if source in NO_TORCH and target not in NO_TORCH:
        return f"must run without torch, which {target} may import"
    if floor(source) > floor(target) or {source, target} <= GROUND:
        return None
    return f"stands on floor {floor(source)} and may only import from below"


def faults(package: Path) -> list[str]:
    """Give every breach of the floors in a package, one line each."""
    parts = {path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")}
    found = list(read_imports(package))
    unknown = (parts | {one.target for one in found if not one.torch}) - {*FLOORS, FACADE}
    if unknown:
        return [f"{name}: no floor is assigned to it; assign one in FLOORS of {__file__}" for name in sorted(unknown)]
    said = [(one, fault(one)) for one in found]
    return [f"{one.place} imports {one.target}: {one.source} {wrong}" for one, wrong in said if wrong]


def test_every_import_goes_down() -> None:
    assert (ROOT / "vae.py").is_file()
    assert faults(ROOT) == []


def test_the_reader_sees_the_imports_there_are() -> None:
    """Without this, a reader that finds nothing would pass everything."""
    seen = {(one.source, one.target) for one in read_imports(ROOT)}
    assert {("data", "results"), ("data", "torch"), ("vae", "torch")} <= seen


# --- the test can fail ---


PARTS = ("vae", "results", "seeds", "options", "__init__")
FOLDERS = ("certify", "attacks", "reports", "lipschitz", "models")


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write a package in which every part is empty, but for the files given by their path without `.py`."""
    package = folder / "vaerdict"
    empty = dict.fromkeys((*PARTS, *(f"{name}/__init__" for name in FOLDERS)), "")
    for name, source in {**empty, **files}.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("certify/margin", "import torch\nfrom vaerdict.vae import VAE\nfrom vaerdict import results, seeds"),
        (
            "certify/margin",
            "from . import shift\nfrom .shift import x\nfrom ..vae import VAE\nfrom vaerdict.certify import y",
        ),
        ("certify/margin", "import numpy.torch\nfrom torchlike import z\nimport vaerdictual"),
        ("results", "from vaerdict.options import Question"),
        ("reports/tables", "from vaerdict.results import load\nimport pandas"),
        ("sweeps/plan", "from vaerdict import certify, attacks"),
        ("cli", "def run():\n    from vaerdict.reports import build\n    import vaerdict.certify.margin"),
        ("__init__", "from vaerdict.certify import certify"),
        ("reports/build", "from vaerdict import __version__"),
    ],
)
def test_imports_from_below_pass(tmp_path: Path, name: str, source: str) -> None:
    assert faults(tree(tmp_path, {name: source})) == []


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("vae", "import vaerdict.certify", "stands on floor 1"),
        ("models/mlp", "from vaerdict.certify.margin import x", "stands on floor 2"),
        ("models/mlp", "from vaerdict.checker import x", "stands on floor 2"),
        ("sweeps/plan", "from vaerdict.reports import x", "stands on floor 4"),
        ("seeds", "import vaerdict.lipschitz", "stands on floor 1"),
        ("seeds", "from vaerdict import certify_all", "stands on floor 1"),
        ("cli", "import vaerdict", "stands on floor 7"),
        ("attacks/suite", "from vaerdict import certify", "must never import certify"),
        ("attacks/suite", "def f():\n    from ..certify import x", "must never import certify"),
        ("attacks/suite", "from .. import certify", "must never import certify"),
        ("attacks/suite", "if x:\n    import vaerdict.lipschitz.bounds as b", "must never import lipschitz"),
        ("attacks/suite", "from vaerdict.models import x", "must never import models"),
        ("attacks/suite", "import importlib\nimportlib.import_module('vaerdict.certify')", "must never import certify"),
        ("certify/margin", "from vaerdict.attacks import x", "must never import attacks"),
        ("lipschitz/bounds", "from vaerdict.vae import VAE", "may import only itself"),
        ("reports/tables", "from vaerdict.seeds import x", r"may import only ['results']"),
        ("reports/tables", "from vaerdict.options import x", r"may import only ['results']"),
        ("reports/tables", "def f():\n    import torch", "must run without torch"),
        ("results", "from torch.nn import Module", "must run without torch"),
        ("options", "from vaerdict.vae import VAE", "must run without torch, which vae may import"),
        ("checker", "from vaerdict.lipschitz import x", "must run without torch, which lipschitz may import"),
    ],
)
def test_a_forbidden_import_is_named(tmp_path: Path, name: str, source: str, said: str) -> None:
    (one,) = faults(tree(tmp_path, {name: source}))
    line = source[: source.index(source.splitlines()[-1])].count("\n") + 1
    assert one.startswith(f"vaerdict/{name}.py:{line} imports ")
    assert said in one


@pytest.mark.parametrize("files", [{"extras": ""}, {"extras/tools": ""}, {"vae": "import vaerdict.extras"}])
def test_a_part_without_a_floor_is_named(tmp_path: Path, files: dict[str, str]) -> None:
    (one,) = faults(tree(tmp_path, files))
    assert one.startswith("extras: no floor is assigned to it; assign one in FLOORS of ")
