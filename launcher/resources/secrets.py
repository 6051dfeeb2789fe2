"""Secrets by their names: where their values are on this host. No value is printed or stored."""

import os
from collections.abc import Iterable
from pathlib import Path


def find_secrets(names: Iterable[str], *, home: Path) -> tuple[dict[str, str], list[str]]:
    """Values from the environment or from files `~/.launcher/secrets/NAME`; names without one."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        value = os.environ.get(name) or _from_file(home / ".launcher" / "secrets" / name)
        if value:
            found[name] = value
        else:
            missing.append(name)
    return found, missing


def _from_file(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
