"""What a run was made of: code, versions, host. Names of environment variables, never values."""

import contextlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.resources import Resources, environment_names

_PACKAGES = ("torch", "ray", "numpy", "transformers", "wandb")
_MAX_DIFF_BYTES = 1 << 20
_GIT_TIMEOUT_S = 5.0


def make_record(
    *,
    code_dir: str,
    overrides: Sequence[str],
    resources: Resources,
    now: datetime,
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of `record.json`. `earlier` is that of the run's launch before this one."""
    before = dict(earlier) if earlier else {}
    return {
        "schema": 1,
        "created": now.isoformat(timespec="seconds"),
        "command": sys.argv,
        "code_dir": code_dir,
        "overrides": list(overrides),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"torch-launcher": __version__, **_versions()},
        "git": _git_state(Path(code_dir)),
        "hosts": [asdict(resources)],
        "environment_names": environment_names(),
        "earlier": [*before.pop("earlier", []), before] if before else [],
    }


def _versions() -> dict[str, str]:
    """Of what is installed; the launcher itself is not where `submit` has carried it."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _git_state(folder: Path) -> dict[str, str]:
    """Commit and uncommitted changes of the code; empty outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    return {"commit": commit, "diff": _git(folder, "diff", "HEAD")} if commit else {}


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, cut at 1 MiB; empty where there is no repository or no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"(git took longer than {_GIT_TIMEOUT_S:g} s)"
    except (OSError, subprocess.SubprocessError):
        return ""
    text = done.stdout[:_MAX_DIFF_BYTES].decode(errors="replace").strip()
    cut = len(done.stdout) - _MAX_DIFF_BYTES
    return f"{text}\n({cut} bytes more)" if cut > 0 else text
