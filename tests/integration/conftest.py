"""Runs that several files of tests start from, made once and never changed."""

from collections.abc import Iterator

import pytest

from tests.job import Ended, Launcher
from tests.trouble import make_launcher


@pytest.fixture(scope="session")
def unbroken_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with make_launcher(tmp_path_factory.mktemp("unbroken")) as launcher:
        assert launcher.run().exit_code == 0
        yield launcher


@pytest.fixture(scope="session")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launcher, Ended]]:
    """A run that Ctrl-C ended in the middle."""
    with make_launcher(tmp_path_factory.mktemp("stopped")) as launcher:
        command = launcher.start_run()
        launcher.reach(10)
        command.interrupt()
        yield launcher, command.wait()
