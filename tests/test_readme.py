"""What the README shows is so: commands, the spec, exit codes, layers, files of a run."""

import re
import shlex
from pathlib import Path

import click
import pytest

from launcher import specfile
from launcher.cli import launcher
from launcher.errors import ExitCode
from launcher.planner import problems
from launcher.resources import this_host
from launcher.spec import JobSpec
from tests.test_architecture import ROWS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = sorted(
    {
        shlex.join(shlex.split(line, comments=True))
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("launcher ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_these_options(line: str) -> None:
    words = shlex.split(line)
    group = click.Context(launcher)
    command = launcher.get_command(group, words[1])
    assert command is not None
    command.make_context(words[1], words[2:])


def test_every_script_of_the_readme_is_there_and_can_be_run() -> None:
    names = set(re.findall(r"scripts/(\w+)", README))
    assert names >= {"quickstart", "test", "check", "bench", "killtest"}
    assert all((ROOT / "scripts" / name).stat().st_mode & 0o111 for name in names)


def test_the_spec_of_the_readme_is_valid(tmp_path: Path) -> None:
    spec, *sections = blocks("yaml")
    assert sections, "what the spec can say beside"
    path = tmp_path / "job.yaml"
    path.write_text("\n".join([spec, *sections]))
    document = specfile.read(path, code_dir=ROOT / "job_specs")
    assert document.spec is not None
    document.refuse(problems(document.spec, this_host()))


def test_the_readme_names_every_section_of_a_spec() -> None:
    sections = set(JobSpec.model_fields) - {"name", "seed"}
    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `\w.*", README, re.MULTILINE))))
    assert sections <= named


def test_the_exit_codes_of_the_readme_are_those_that_this_release_uses() -> None:
    rows = re.findall(r"^\| (\d+) \|[^|]*\|[^|]*\| (\d+) \|", README, re.MULTILINE)
    shown = {int(code) for row in rows for code in row}
    assert shown == {code.value for code in ExitCode}


def test_the_layers_of_the_readme_are_those_that_a_test_holds() -> None:
    table = README[README.index("| row | knows |") :].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    held = [name for row in ROWS for name in row if name != "__main__"]
    assert sorted(name for row in rows for name in row) == sorted(held)
    heads = [row[0] for row in rows]
    assert heads == sorted(heads, key=held.index)


def test_no_place_of_the_readme_waits_to_be_filled_in() -> None:
    assert not re.findall(r"^[A-Z_]{6,}$", README, re.MULTILINE)
