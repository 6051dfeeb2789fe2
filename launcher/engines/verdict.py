"""From how each rank ended, how the attempt ended: which rank is to blame, and in what words.

A pure reading of reports and exit statuses; nothing is started or killed here.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.outcome import AttemptEnd, Failure, Kind

_TAIL_LINES = 20
_TAIL_BYTES = 16_384
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
"""Signals that a process brings on itself; any other comes from outside."""


@dataclass(frozen=True)
class RankEnd:
    """How one rank's process ended."""

    rank: int
    exit_status: int | None
    """Its exit code; a signal that killed it is negative; None while it runs."""
    died: float
    """Seconds of a monotonic clock."""
    report: AttemptEnd | None
    """What it said itself before it ended."""
    killed_by_us: bool
    log: Path

    @property
    def done(self) -> bool:
        """It finished its part, and waits for the others."""
        return self.report is not None and self.report.failure is None

    @property
    def failed(self) -> bool:
        return not self.done and (self.report is not None or self.exit_status is not None)


def verdict(
    ends: Sequence[RankEnd], *, hung_rank: int | None, hang_timeout_s: int, out_of_memory: bool
) -> AttemptEnd:
    """The end of the attempt.

    The guilty rank is the first that died for a reason of its own; ranks that merely lost their
    peers, or that we killed for it, are not.
    """
    if hung_rank is not None:
        message = f"no rank made progress for {hang_timeout_s} s; rank {hung_rank} is behind"
        return _failed(ends[hung_rank], "hang", message)
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


def tail(log: Path) -> str:
    """The last lines that a rank printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-_TAIL_LINES:])


def _silent_death(end: RankEnd, *, out_of_memory: bool) -> AttemptEnd:
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
        kind=kind, message=f"rank {end.rank}: {message}", rank=end.rank, traceback=tail(end.log)
    )
    return AttemptEnd(status="failed", failure=failure)
