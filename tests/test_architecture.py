"""The house has one direction, and heavy rooms stay shut until somebody enters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from gradcheck import candidates

ROOT = Path(__file__).parent.parent / "gradcheck"

# Each line may import from the lines above it, and from its own folder; docs/architecture.md draws the same house.
FLOORS = (
    {"__init__", "exceptions", "exits"},
    {"exact", "plugins", "functions", "reading", "writing", "locks", "versions"},
    {"formats"},
    {"stored"},
    {"text", "problem", "distributions", "processes", "workers", "checkpoint"},
    {"cluster"},
    {"batch", "estimates", "closed_form", "losses", "files"},
    {"catalogue", "candidates", "reference"},
    {"screening", "tolerances", "fixtures"},
    {"metrics", "mistakes", "diagnosis"},
    {"profiles"},
    {"results"},
    {"observing", "rejudging", "merging"},
    {"checking", "sweep", "derivation"},
    {"glance"},
    {"streaming"},
    {"verification", "selftest"},
    {"report"},
    {"cli", "pytest_plugin", "api"},
    {"__main__"},
)


def imports(root: Path) -> dict[str, set[str]]:
    """Each module below `root` with the modules of the same package that it imports, wherever in the file."""
    package = root.name
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                if target.split(".")[0] == package:
                    inner = target.removeprefix(package).removeprefix(".")
                    while inner and inner not in modules:
                        inner = inner.rpartition(".")[0]
                    found[name].add(inner or "__init__")
        found[name].discard(name)
    # the package's face points at whatever is public, when somebody asks for it
    found["__init__"] = set()
    return found


def violations(root: Path) -> list[str]:
    """Rooms without a floor, imports that run upward or sideways, and circles."""
    floor = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
    graph, wrong = imports(root), []
    for module, targets in graph.items():
        room = module.split(".")[0]
        if room not in floor:
            wrong.append(f"{module} stands on no floor")
            continue
        for target in targets:
            other = target.split(".")[0]
            if other != room and floor.get(other, 99) >= floor[room]:
                wrong.append(f"{module} imports {target}, which is not below it")
    seen: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if seen.get(module) == 2:
            return
        if seen.get(module) == 1:
            wrong.append(f"circle: {' -> '.join((*path[path.index(module) :], module))}")
            return
        seen[module] = 1
        for target in sorted(graph[module]):
            visit(target, (*path, module))
        seen[module] = 2

    for module in graph:
        visit(module, ())
    return wrong


def test_imports_run_downward_only() -> None:
    assert violations(ROOT) == []


def test_an_upward_import_and_a_circle_are_caught(tmp_path: Path) -> None:
    root = tmp_path / "gradcheck"
    (root / "report").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "metrics.py").write_text("def f():\n    from gradcheck.report import table\n")
    (root / "report" / "__init__.py").write_text("from gradcheck.report import table\n")
    (root / "report" / "table.py").write_text("import gradcheck.report\n")
    (root / "attic.py").write_text("")
    assert violations(root) == [
        "attic stands on no floor",
        "metrics imports report.table, which is not below it",
        "circle: report.table -> report -> report.table",
    ]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['gradcheck', '--help']\n"
        "from gradcheck.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'mpmath', 'ml_dtypes', 'pydantic'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "HEAVY []"


def test_every_import_is_declared() -> None:
    """What the core imports, pyproject.toml names, also where a dependency already brings it."""
    import tomllib

    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    declared = {word.split(">")[0].split("=")[0].strip() for word in project["dependencies"]}
    used = set()
    # an optional package is imported in its own plugin file, and nowhere else
    optional = {
        ROOT / "reference" / "engines" / "flint.py": {"flint"},
        **{ROOT / "candidates" / "frameworks" / f"{name}.py": {name} for name in candidates.packages()},
        ROOT / "files" / "safetensors.py": {"safetensors"},
        ROOT / "report" / "_page.py": {"jinja2"},
        ROOT / "report" / "_figure.py": {"matplotlib"},
        ROOT / "cluster.py": {"dask", "distributed", "psutil"},
        ROOT / "pytest_plugin.py": {"pytest"},
        ROOT / "api.py": {"pytest"},
    }
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            used |= {name.split(".")[0] for name in names} - optional.get(path, set())
    foreign = used - set(sys.stdlib_module_names) - {"gradcheck", "_typeshed"}
    assert foreign == declared
