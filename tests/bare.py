"""A Python as a cluster's host has it: torch, Ray, what these two require, and nothing else."""

import re
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HOST_NEEDS = ("torch", "ray[default]")


def required(*roots: str) -> dict[str, Distribution]:
    """The distributions that these need, themselves included, by normalized name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # CUDA's packages, where this torch is the CPU build
            continue
        extras = {"", *wanted.extras}
        waiting += [each for each in _requirements(found[name]) if _applies(each, extras)]
    return found


def make_host_python(folder: Path) -> Path:
    """A virtual environment with links to these distributions; returns its interpreter."""
    venv.create(folder, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    for each in required(*HOST_NEEDS).values():
        for name in {file.parts[0] for file in each.files or () if file.parts[0] != ".."}:
            if not (packages / name).exists():  # google and opencensus are of several
                (packages / name).symlink_to(Path(str(each.locate_file(name))))
    return folder / "bin" / "python"


def _requirements(found: Distribution) -> Iterator[Requirement]:
    for line in found.requires or ():
        yield Requirement(line)


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
