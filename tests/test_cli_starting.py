"""`launcher.cli.starting`: what `init` writes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from launcher import specfile
from launcher.cli import starting
from launcher.errors import SpecError
from launcher.planner import problems
from launcher.resources import this_host
from launcher.specfile.sections import is_known


def init(*arguments: str) -> str:
    """What `init` says."""
    done = CliRunner().invoke(starting.init, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stderr


def test_what_init_writes_is_valid_and_named_after_its_folder(tmp_path: Path) -> None:
    said = init(str(tmp_path / "My Spirals_2"))
    spec_file = tmp_path / "My Spirals_2" / "job.yaml"
    document = specfile.read(spec_file)
    assert document.spec is not None
    document.refuse(problems(document.spec, this_host()))
    assert document.spec.name == "my-spirals-2"
    assert said.splitlines()[-1] == f"train with: launcher run '{spec_file}'"


def test_init_without_a_folder_writes_here_under_the_given_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init("--name", "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "model.py"]
    spec = specfile.read(Path("job.yaml")).spec
    assert spec is not None
    assert spec.name == "first"


def test_the_optional_fields_in_the_comments_are_real(tmp_path: Path) -> None:
    """Whoever takes the `#` away gets a valid spec."""
    init(str(tmp_path))
    spec_file = tmp_path / "job.yaml"
    lines = spec_file.read_text().splitlines()
    _, *head = lines[: lines.index("")]
    opened = [line.replace("# ", "", 1) if _is_field(line) else line for line in lines]
    assert sum(map(_is_field, lines)) >= 9
    assert not any(map(_is_field, head))
    spec_file.write_text("\n".join(opened))
    specfile.read(spec_file).refuse()


def _is_field(line: str) -> bool:
    mark, _, rest = line.strip().partition(" ")
    name, colon, _ = rest.partition(":")
    sections = ((), ("data",), ("train",))
    return mark == "#" and bool(colon) and any(is_known((*key, name)) for key in sections)


@pytest.mark.parametrize("name", ["job.yaml", "model.py"])
def test_init_overwrites_nothing_and_names_what_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(SpecError, match=f"{name} exists"):
        starting.init.main([str(tmp_path)], standalone_mode=False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_init_refuses_a_name_that_no_run_may_have_and_offers_a_near_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="try my-job-1"):
        starting.init.main([str(tmp_path), "--name", "My_Job 1"], standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_init_says_so_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        starting.init.main([str(tmp_path / "file")], standalone_mode=False)
