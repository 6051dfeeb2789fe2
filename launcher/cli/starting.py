"""`init`: the first command of a new job. What a new spec says is in `templates`."""

import re
import shlex
from importlib import resources
from pathlib import Path

import click

from launcher.cli.asking import say
from launcher.errors import SpecError

_SPEC = "job.yaml"
_CODE = "model.py"
_TEMPLATE_NAME = "my-job"
_LONGEST_NAME = 60


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--name", default=None, help="Names the runs.  [default: the folder's name]")
def init(folder: Path, name: str | None) -> None:
    """Write job.yaml, and the model.py it names, to FOLDER; they train as they are."""
    fitting = _fitting_name(name or folder.absolute().resolve().name)
    if name not in (None, fitting):
        raise SpecError(
            f"--name is {name!r}, must be lower-case letters, digits and hyphens, at most "
            f"{_LONGEST_NAME}; try {fitting}"
        )
    templates = resources.files("launcher.cli") / "templates"
    spec_text = (templates / _SPEC).read_text(encoding="utf-8")
    texts = {
        _SPEC: spec_text.replace(f"name: {_TEMPLATE_NAME}", f"name: {fitting}", 1),
        _CODE: (templates / _CODE).read_text(encoding="utf-8"),
    }
    _write_new(folder, texts)
    say(f"wrote {folder / _SPEC} and {folder / _CODE}")
    say(f"train with: launcher run {shlex.quote(str(folder / _SPEC))}")


def _fitting_name(name: str) -> str:
    """The nearest name that a job may have."""
    fitting = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return fitting[:_LONGEST_NAME].strip("-") or _TEMPLATE_NAME


def _write_new(folder: Path, texts: dict[str, str]) -> None:
    """Writes every file, or none when one of them is there already."""
    for path in (folder / name for name in texts):
        if path.exists() or path.is_symlink():
            raise SpecError(f"{path} exists already, and nothing was written; name another FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SpecError(f"{error.filename} cannot be written: {error.strerror}") from error
