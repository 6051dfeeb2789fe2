"""`launcher.targets`: from an import path to an object, and what is said when that fails."""

import collections
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import targets

MINE = """
import math
from collections import OrderedDict as Ordered

class DigitsCNN:
    def __init__(self, *, width, depth=2, inner=None):
        self.width, self.depth, self.inner = width, depth, inner
    @classmethod
    def small(cls): return cls(width=1)

if True:
    LIMIT = 3

def explode(): raise TypeError("mine")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    (tmp_path / "mine.py").write_text(MINE)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def problem(folder: Path, target: str) -> str | None:
    return targets.find_problem(target, search_path=[str(folder), *sys.path])


@pytest.mark.parametrize("target", ["collections:OrderedDict", "collections.OrderedDict"])
def test_a_colon_and_a_dot_lead_to_the_same_object(target: str) -> None:
    assert targets.load(target) is collections.OrderedDict


@pytest.mark.usefixtures("folder")
def test_attributes_of_a_class_can_be_named() -> None:
    assert targets.load("mine:DigitsCNN.small")().width == 1
    assert targets.load("mine.DigitsCNN.small")().width == 1


def test_a_package_that_the_persons_file_misses_is_named_with_file_and_line(folder: Path) -> None:
    (folder / "needy.py").write_text("import math\n\nimport no_such_package\n")
    with pytest.raises(targets.TargetError) as caught:
        targets.load("needy:x")
    assert "No module named 'no_such_package'" in str(caught.value)
    assert f"{folder / 'needy.py'}:3" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("x = 1 / 0\n", "ZeroDivisionError: division by zero"), ("\ndef f(:\n", "SyntaxError")],
)
def test_whatever_a_module_raises_on_import_is_said_with_its_line(
    folder: Path, text: str, reason: str
) -> None:
    (folder / "broken.py").write_text(text)
    with pytest.raises(targets.TargetError, match=reason) as caught:
        targets.load("broken.x")
    assert f"broken.py:{text.count(chr(10))}" in str(caught.value)


@pytest.mark.usefixtures("folder")
def test_a_missing_attribute_gets_a_suggestion() -> None:
    with pytest.raises(targets.TargetError, match="did you mean 'DigitsCNN'"):
        targets.load("mine:DigitCNN")


@pytest.mark.usefixtures("folder")
def test_a_module_alone_is_not_a_callable() -> None:
    with pytest.raises(targets.TargetError, match="mine:NAME"):
        targets.load("mine")
    with pytest.raises(targets.TargetError, match="is a int, not a callable"):
        targets.build("mine:LIMIT", {})


def test_an_error_crosses_processes() -> None:
    with pytest.raises(targets.TargetError) as caught:
        targets.load("no_such_module:x")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.usefixtures("folder")
def test_nested_targets_are_built_first_at_any_depth() -> None:
    inner = {"target": "mine:DigitsCNN", "args": {"width": 1}}
    data = {"target": "not a call", "more": 1}
    built = targets.build("mine:DigitsCNN", {"width": [{"a": inner}], "inner": data})
    assert built.width[0]["a"].width == 1
    assert built.inner == data


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"widht": 3}, "mine:DigitsCNN has no argument 'widht'; did you mean 'width'?"),
        ({}, "mine:DigitsCNN needs the argument 'width'"),
    ],
)
def test_wrong_arguments_are_named_before_the_call(args: dict[str, int], words: str) -> None:
    with pytest.raises(targets.TargetError) as caught:
        targets.build("mine:DigitsCNN", args)
    assert words in str(caught.value)


@pytest.mark.usefixtures("folder")
def test_an_error_inside_the_callable_passes_unchanged() -> None:
    with pytest.raises(TypeError, match=r"^mine$"):
        targets.build("mine:explode", {})


@pytest.mark.parametrize(
    "target",
    [
        "mine:DigitsCNN",
        "mine.DigitsCNN.small",
        "mine:LIMIT",
        "mine:Ordered",
        "mine:math",
        "os.path:join",
        "math:sqrt",
        "builtins:dict",
        "torch.nn:CrossEntropyLoss",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler:CosineAnnealingLR",
        "transformers:AutoModelForCausalLM",
    ],
)
def test_what_can_be_imported_has_no_problem(folder: Path, target: str) -> None:
    assert problem(folder, target) is None


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("minee:X", "no module named 'minee' beside the spec or installed; did you mean 'mine'?"),
        ("mine:DigitCNN", "mine.py has no 'DigitCNN'; did you mean 'DigitsCNN'?"),
        ("torch.optm:AdamW", "no module named 'torch.optm'; did you mean 'torch.optim'?"),
        ("torch.optim:Adamw", "torch.optim has no 'Adamw'; did you mean 'AdamW'?"),
        ("torch.nn:CrossEntropyLos", "torch.nn has no 'CrossEntropyLos'; did you mean 'CrossE"),
        ("mine", "mine is a module; name a callable in it: mine:NAME"),
    ],
)
def test_what_cannot_be_imported_is_told_without_importing(
    folder: Path, target: str, reason: str
) -> None:
    assert (problem(folder, target) or "").startswith(reason)
    assert "mine" not in sys.modules


def test_absent_packages_are_found_through_the_persons_own_modules(folder: Path) -> None:
    (folder / "model.py").write_text("import layers\nclass Net: ...\n")
    (folder / "layers.py").write_text(
        "try:\n    import apex\nexcept ImportError: ...\nimport skl\n"
    )
    assert problem(folder, "model:Net") == "layers.py:4 imports 'skl', which is not installed"


def test_a_syntax_error_is_told_with_its_line(folder: Path) -> None:
    (folder / "model.py").write_text("\n\nclass Net(:\n")
    assert (problem(folder, "model:Net") or "").startswith("model.py:3: ")


def test_stars_are_followed_and_a_dynamic_module_is_trusted(folder: Path) -> None:
    (folder / "nets").mkdir()
    (folder / "nets" / "__init__.py").write_text("from .zoo import *\n")
    (folder / "nets" / "zoo.py").write_text("class Net: ...\n")
    (folder / "lazy.py").write_text("def __getattr__(name): return name\n")
    assert problem(folder, "nets:Net") is None
    assert problem(folder, "nets.zoo.Net") is None
    assert problem(folder, "nets:Nett") == "nets/__init__.py has no 'Nett'; did you mean 'Net'?"
    assert problem(folder, "lazy:Anything") is None


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20) | st.from_regex(r"[a-z.:]{0,12}"))
def test_no_target_makes_the_static_check_raise(target: str) -> None:
    reason = targets.find_problem(target, search_path=["/no/such/folder"])
    assert reason is None or isinstance(reason, str)
