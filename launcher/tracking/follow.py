"""Hands the rows of a growing metrics file to a sink, until told that no more will come.

What the sink does with them, and in which process, is for those who call to know.
"""

import threading

from launcher.contracts import MetricSink
from launcher.metrics import Follower

POLL_S = 0.2


def follow(follower: Follower, sink: MetricSink, *, ended: threading.Event) -> None:
    """Returns when `ended` is set and every row that was written before has been handed over."""
    last = False
    while not last:
        last = ended.wait(POLL_S)
        for row in follower.new_rows():
            sink.log(row)
