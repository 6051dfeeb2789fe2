"""Which signals ask a run to stop, and how soon."""

import signal
from collections.abc import Iterator

import pytest

from launcher.cli.interrupting import interruptible


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    polite = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in polite]
    yield
    for number, handler in zip(polite, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_ends_at_once(first: signal.Signals) -> None:
    with interruptible() as stop:
        signal.raise_signal(first)
        assert stop.graceful.is_set()
        assert not stop.at_once.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.at_once.is_set()


def test_a_closed_terminal_never_ends_a_run_at_once() -> None:
    with interruptible() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.graceful.is_set()
        assert not stop.at_once.is_set()


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.graceful.is_set()


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
