"""What an engine and the nursery of each host say to each other: one JSON line a message.

How the lines travel, by a pipe or through Ray, is the engines' knowledge.
"""

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from launcher.contracts import Attempt
from launcher.outcome import AttemptEnd, Failure
from launcher.plan import RunPlan
from launcher.rundir import RunDir


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Message):
    """Fork these ranks of an attempt."""

    command: Literal["start"] = "start"
    plan: RunPlan
    run_dir: str
    """Its URL, or the folder in which this host works on it."""
    number: int
    checkpoint: str
    first_rank: int
    ranks: int
    """How many from the first on."""
    address: str
    """Where the ranks of the attempt meet: an address of rank 0's host."""
    port: int
    """0 on rank 0's host, which takes a free one and says which."""
    token: str = ""
    """Of the hold of a run at a URL: a host writes there only as long as it is still this one."""

    @property
    def attempt(self) -> Attempt:
        return Attempt(
            plan=self.plan,
            run_dir=RunDir(self.run_dir),
            number=self.number,
            checkpoint=self.checkpoint,
        )


class Order(_Message):
    """stop: save after the step, and end. dump: write every stack to the logs. end: die now."""

    command: Literal["stop", "dump", "end"]


Message = Start | Order


def parse_message(line: bytes | str) -> Message:
    """What an engine says."""
    return _MESSAGE.validate_json(line)


_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


class RankEnd(_Message):
    """How one rank's process ended."""

    rank: int
    exit_status: int | None
    """Its exit code; a signal that killed it is negative; None while it runs."""
    died: float
    """Unix seconds."""
    report: AttemptEnd | None
    """What it said itself before it ended."""
    killed_by_us: bool
    last_lines: str = ""
    """What it printed last."""
    lost_with: str = ""
    """What was lost, and this rank with it."""

    @property
    def done(self) -> bool:
        """It finished its part, and waits for the others."""
        return self.report is not None and self.report.failure is None

    @property
    def failed(self) -> bool:
        return not self.done and (self.report is not None or self.exit_status is not None)


class News(_Message):
    """What became of a host's ranks."""

    state: Literal["listening", "moving", "stalled", "done", "ended"]
    """stalled: none of them moved for too long. done: all finished, and wait to be ended."""
    port: int = 0
    """With `listening`: where rank 0 waits for the others."""
    counts: dict[int, int] = {}
    """With `stalled`: pieces of work that each unfinished rank has done."""
    stalled_s: float = 0.0
    """With `stalled`: for how long nothing has moved."""
    ends: tuple[RankEnd, ...] = ()
    """With `ended`: one for each rank."""
    out_of_memory: bool = False
    """With `ended`: the kernel killed something on this host for memory meanwhile."""


class Growth(_Message):
    """What a file of the run has by now, on a host whose files others do not see."""

    name: str
    """Relative to the run's directory."""
    text: str
    """Whole lines, to be put at the end of those before."""


Said = News | Growth


def parse_said(line: str) -> Said:
    """What a host says."""
    return _SAID.validate_json(line)


_SAID: TypeAdapter[Said] = TypeAdapter(Said)


def never_started(start: Start, failure: Failure) -> News:
    """That a host's ranks could not be started."""
    ends = tuple(
        RankEnd(
            rank=rank,
            exit_status=None,
            died=time.time(),
            report=AttemptEnd(status="failed", failure=failure),
            killed_by_us=False,
        )
        for rank in range(start.first_rank, start.first_rank + start.ranks)
    )
    return News(state="ended", ends=ends)
