"""From how each rank ended, how the attempt ended: which rank is to blame, and in what words.

A pure reading of reports and exit statuses; nothing is started or killed here.
"""

import signal
from collections.abc import Sequence

from launcher.engines.protocol import RankEnd
from launcher.outcome import AttemptEnd, Failure, Kind

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
"""Signals that a process brings on itself; any other comes from outside."""


def verdict(
    ends: Sequence[RankEnd], *, hung_rank: int | None, stalled_s: float, out_of_memory: bool
) -> AttemptEnd:
    """The end of the attempt.

    The guilty rank is the first that died for a reason of its own; ranks that merely lost their
    peers, or that we killed for it, are not.
    """
    if hung_rank is not None:
        message = f"no rank made progress for {stalled_s:g} s; rank {hung_rank} is behind"
        return _failed(next(end for end in ends if end.rank == hung_rank), "hang", message)
    in_order = sorted(ends, key=lambda end: end.died)
    for end in in_order:
        if end.report is None and not end.killed_by_us:
            return _silent_death(end, out_of_memory=out_of_memory)
        if end.report and end.report.failure and end.report.failure.kind != "lost":
            return end.report
    for end in in_order:
        if end.report and end.report.failure:
            if out_of_memory:  # of a loader process, say
                return _failed(end, "out_of_memory", end.report.failure.message)
            return end.report
    stopped = any(end.report is None or end.report.status == "stopped" for end in ends)
    return AttemptEnd(status="stopped" if stopped else "succeeded")


def _silent_death(end: RankEnd, *, out_of_memory: bool) -> AttemptEnd:
    if end.lost_with:
        return _failed(end, "lost", end.lost_with)
    if end.exit_status == -signal.SIGKILL and out_of_memory:
        return _failed(end, "out_of_memory", "the kernel killed it: out of memory")
    if end.exit_status is not None and end.exit_status < 0:
        number = -end.exit_status
        known = number in signal.Signals.__members__.values()
        name = signal.Signals(number).name if known else f"signal {number}"
        if number in _CRASHES:
            return _failed(end, "user_code", f"crashed with {name}")
        return _failed(end, "lost", f"killed by {name}")
    return _failed(end, "user_code", f"exited with code {end.exit_status} in the middle")


def _failed(end: RankEnd, kind: Kind, message: str) -> AttemptEnd:
    failure = Failure(
        kind=kind, message=f"rank {end.rank}: {message}", rank=end.rank, traceback=end.last_lines
    )
    return AttemptEnd(status="failed", failure=failure)
