"""The versions of what the hosts of a cluster must have in common. Nothing of it is imported."""

import importlib.metadata
import platform

import launcher


def installed(package: str) -> str:
    """Empty: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def own_versions() -> dict[str, str]:
    """Those of this process's Python."""
    return {
        "python": platform.python_version(),
        "ray": installed("ray"),
        "torch": installed("torch"),
        "launcher": launcher.__version__,
    }
