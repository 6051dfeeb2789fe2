"""The layers of the package, who owns which third-party name, and what the command may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "launcher"

ROWS = [
    ["__main__"],
    ["cli"],
    ["driver", "doctor", "cluster", "memory"],
    ["engines", "watch", "history"],
    ["worker"],
    ["loop"],
    ["evaluation", "journal", "saving", "failures"],
    ["strategies", "tracking", "task", "data"],
    ["metrics", "parts"],
    ["contracts"],
    ["mirror", "workspace"],
    ["planner", "specfile"],
    ["checkpoint", "tensor_files", "retry", "lock", "record", "packing", "timeline", "growing"],
    ["plan", "resources", "targets"],
    ["spec", "rundir", "outcome"],
    ["storage"],
    ["distributed"],
    ["errors"],
]
"""Highest first; a module imports only from rows below its own, or from its own folder."""

OWNERS = {
    "click": {"cli"},
    "rich": {"cli"},
    "yaml": {"specfile"},
    "wandb": {"tracking"},
    "fsspec": {"storage"},
    "safetensors": set(),
    "psutil": set(),
    "numpy": set(),
    "fcntl": {"lock", "resources", "workspace"},
    "ray": {"engines", "cluster"},
    "aiohttp": {"cluster"},
    "pathspec": {"packing"},
    "deepspeed": {"strategies"},
}
ENVIRONMENT_READERS = {"distributed", "resources"}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "manager"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: Path) -> str:
    """`launcher/data/order.py` belongs to `data`."""
    inside = module.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imported_names(module: Path) -> set[str]:
    """Every absolute name that a module imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "launcher":
                names.update(f"launcher.{alias.name}" for alias in node.names)
    return names


def row_of(part: str) -> int:
    return next(number for number, row in enumerate(ROWS) if part in row)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_rows_below_its_own(module: Path) -> None:
    part = part_of(module)
    if part == "__init__":
        assert not imported_names(module)
        return
    for name in imported_names(module):
        package, _, rest = name.partition(".")
        if package != "launcher" or not rest:
            continue
        other = rest.split(".")[0]
        if other not in (part, "__version__"):
            assert row_of(other) > row_of(part), f"{part} imports {other}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_third_party_name_is_known_to_its_owner_only(module: Path) -> None:
    for name in imported_names(module):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or part_of(module) in owners, f"{name} in {module}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_environment_is_read_in_two_modules_only(module: Path) -> None:
    reads = any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        for node in ast.walk(ast.parse(module.read_text()))
    )
    assert not reads or part_of(module) in ENVIRONMENT_READERS


def test_no_module_is_named_for_nothing_in_particular() -> None:
    assert not FORBIDDEN_NAMES & {module.stem for module in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_under_300_lines_and_functions_fit_a_screen(module: Path) -> None:
    text = module.read_text()
    assert text.count("\n") < 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno <= 40, node.name


def test_the_map_of_the_product_is_under_400_lines() -> None:
    files = ("contracts.py", "plan.py", "loop.py")
    assert sum((PACKAGE / name).read_text().count("\n") for name in files) < 400


@pytest.mark.parametrize(
    "arguments", ["--help", "validate job_specs/char_gpt.yaml", "schema", "doctor --help"]
)
def test_a_command_that_trains_nothing_imports_no_heavy_package(arguments: str) -> None:
    code = (
        "import sys; from launcher.cli import launcher\n"
        f"launcher({arguments.split()!r}, standalone_mode=False)\n"
        "print([m for m in ('torch', 'ray', 'deepspeed', 'wandb', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
