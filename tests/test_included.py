"""`launcher.specfile.included`: a section of a spec that is in a JSON file of its own."""

from pathlib import Path
from typing import Any

import pytest

from launcher import specfile
from tests.spec_texts import SMALL, lines

WITH_FILE = SMALL + "strategy: {name: deepspeed, config: ds.json}\n"
CONFIG = """{
\t"gradient_clipping": 1.0,
\t"zero_optimization":{"stage" : 2, "overlap_comm": false}
}"""


@pytest.fixture
def config(folder: Path) -> Path:
    path = folder / "ds.json"
    path.write_text(CONFIG)
    return path


@pytest.mark.usefixtures("config")
def test_a_named_file_stands_where_its_name_was_with_the_places_of_its_keys(read: Any) -> None:
    document = read(WITH_FILE)
    assert document.problems == ()
    assert document.spec.strategy.config == {
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2, "overlap_comm": False},
    }
    assert document.origin(("strategy", "config")) == "job.yaml:4:29"
    assert document.origin(("strategy", "config", "gradient_clipping")) == "ds.json:2:2"
    assert document.origin(("strategy", "config", "zero_optimization", "stage")) == "ds.json:3:23"


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    "text", [WITH_FILE, SMALL + "strategy: {name: deepspeed, config: {gradient_clipping: 1.0}}\n"]
)
def test_an_override_reaches_into_a_config_inline_or_in_a_file(read: Any, text: str) -> None:
    override = "strategy.config.zero_optimization.overlap_comm=true"
    document = read(text, override)
    assert document.problems == ()
    assert document.spec.strategy.config["gradient_clipping"] == 1.0
    assert document.spec.strategy.config["zero_optimization"]["overlap_comm"] is True
    key = ("strategy", "config", "zero_optimization", "overlap_comm")
    assert document.origin(key) == f"--set {override}"
    assert read(text, "strategy.config.gradient_clipping=null").problems == ()


@pytest.mark.usefixtures("config")
def test_an_override_can_name_the_file_and_a_later_one_change_it(read: Any) -> None:
    document = read(SMALL, "strategy={name: deepspeed}", "strategy.config=ds.json")
    assert document.spec.strategy.config["gradient_clipping"] == 1.0
    document = read(SMALL, "strategy.config=ds.json", "strategy.config.gradient_clipping=2.0")
    assert document.spec.strategy.config["gradient_clipping"] == 2.0
    assert document.origin(("strategy", "config")) == "--set strategy.config=ds.json"


def test_a_file_is_looked_for_where_the_code_is(folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "ds.json").write_text(CONFIG)
    (folder / "spec.yaml").write_text(WITH_FILE)
    document = specfile.read(Path("spec.yaml"), code_dir=code)
    assert document.spec is not None
    assert document.origin(("strategy", "config", "gradient_clipping")) == f"{code}/ds.json:2:2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "ds.json:1:2: is not JSON: expecting property name enclosed in double quotes"),
        ('{"a": 1,\n // b\n}', "ds.json:2:2: is not JSON: expecting property name enclosed in"),
        ("", "ds.json:1:1: is not JSON: expecting value"),
        ("[1]", "ds.json:1:1: must be a JSON object, in braces"),
        ('{"a": NaN}', "ds.json: is not JSON: NaN is no number there"),
        ("[" * 100_000, "ds.json: is not JSON: "),
        ("\ud800", "ds.json is not UTF-8 text (invalid continuation byte at byte 0)"),
    ],
)
def test_a_file_that_is_no_json_object_is_one_problem(
    read: Any, config: Path, text: str, said: str
) -> None:
    config.write_bytes(text.encode("utf-8", "surrogatepass"))
    (line,) = lines(read(WITH_FILE))
    assert line.startswith(f"job.yaml:4:29: strategy.config: {said}")


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dss.json", "there is no file dss.json; did you mean ds.json?"),
        (".", ". is a folder; name the JSON file in it"),
        ("../ds.json", "is '../ds.json', must lie in the spec's folder, which is all that goes"),
        ("/ds.json", "is '/ds.json', must lie in the spec's folder, which is all that goes to a"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(read: Any, name: str, said: str) -> None:
    (line,) = lines(read(WITH_FILE.replace("ds.json", name)))
    assert line.startswith(f"job.yaml:4:29: strategy.config: {said}")


def test_a_key_that_is_there_twice_is_told_at_the_second(read: Any, config: Path) -> None:
    config.write_text('{"a": 1,\n"a": 2}')
    assert lines(read(WITH_FILE)) == [
        "ds.json:2:1: strategy.config.a: is there twice, first on line 1; remove one of them"
    ]


def test_places_are_lost_rather_than_a_file_refused_that_is_json_but_no_yaml(
    read: Any, config: Path
) -> None:
    config.write_text('{"a"\n:1, "b\\ud83d\\ude00": "\\/"}')
    document = read(WITH_FILE)
    assert document.problems == ()
    assert document.spec.strategy.config == {"a": 1, "b\U0001f600": "/"}
    assert document.origin(("strategy", "config", "a")) == "job.yaml:4:29"


def test_problems_of_the_file_come_where_the_spec_names_it(read: Any, config: Path) -> None:
    config.write_text('{"a": 1, "a": 2}')
    document = read(WITH_FILE.replace("global_batch_size: 8", "global_batch_size: 0") + "seed: x\n")
    places = [document.origin(problem.key) for problem in document.wrong()]
    assert places == ["job.yaml:3:39", "ds.json:1:10", "job.yaml:5:1"]
