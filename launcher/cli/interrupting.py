"""What Ctrl-C, the polite signals and a closed terminal ask of a run in the foreground.

How the ranks get to know of it is the engines' knowledge.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from launcher.contracts import StopRequest


@contextmanager
def interruptible() -> Iterator[StopRequest]:
    """Ctrl-C and the polite signals ask for a graceful stop; a second one ends at once.

    A terminal that is closed asks once: the kernel and the shell may both send SIGHUP for it. What
    `nohup` or a shell has set to be ignored stays ignored.
    """
    stop = StopRequest()
    terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _redirect_to_nowhere(terminals)  # they are gone, and the rest of the run says more
        if not stop.graceful.is_set():
            stop.graceful.set()
            _say_in_handler("stopping after this step, with a checkpoint; once more to end at once")
        elif number != signal.SIGHUP:
            stop.at_once.set()
            raise KeyboardInterrupt

    polite = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in polite if signal.getsignal(number) != signal.SIG_IGN]
    before = [signal.signal(number, on_signal) for number in heard]
    try:
        yield stop
    finally:
        for number, handler in zip(heard, before, strict=True):
            signal.signal(number, handler)


def _say_in_handler(text: str) -> None:
    """Straight to the descriptor: the code that was interrupted may be writing to the stream."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def _redirect_to_nowhere(descriptors: Iterable[int]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)
