"""What a run's strategy needs is asked for before anything starts."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from launcher.engines import libraries
from launcher.errors import PreflightError
from launcher.plan import Deepspeed
from launcher.resources import is_installed
from tests.plans import make_plan

ZERO = make_plan().model_copy(update={"strategy": Deepspeed(zero_stage=2, config={})})


@pytest.fixture
def no_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that has everything else."""
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "deepspeed" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)


@pytest.mark.usefixtures("no_deepspeed")
def test_a_missing_deepspeed_is_one_line_with_two_ways_out() -> None:
    with pytest.raises(PreflightError) as told:
        libraries.require_here(ZERO)
    assert str(told.value) == (
        "the spec asks for strategy deepspeed, but deepspeed is not installed here; run "
        "`pip install 'torch-launcher[deepspeed]'`, or train with `--set strategy=ddp`"
    )
    libraries.require_here(make_plan())


@pytest.mark.usefixtures("no_deepspeed")
def test_a_host_of_a_cluster_that_lacks_it_is_named() -> None:
    (found,) = libraries.missing(libraries.needed(ZERO), host="10.0.0.2")
    assert found.startswith("host 10.0.0.2 has no deepspeed; install it for ")
    assert libraries.missing(libraries.needed(make_plan()), host="10.0.0.2") == []


def test_a_folder_of_its_name_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a project may have one for its configurations."""
    (tmp_path / "deepspeeed").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("deepspeeed")
    assert is_installed("torch")
