"""What an engine and the nursery of each host say to each other: one JSON line a message.

How the lines travel, by a pipe or through Ray, is the engines' knowledge.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from launcher.contracts import Attempt
from launcher.outcome import AttemptEnd
from launcher.plan import RunPlan


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Message):
    """Fork these ranks of an attempt."""

    command: Literal["start"] = "start"
    plan: RunPlan
    run_dir: str
    number: int
    checkpoint: str
    first_rank: int
    ranks: int
    """How many from the first on."""
    address: str
    """Where the ranks of the attempt meet: an address of rank 0's host."""
    port: int
    """0 on rank 0's host, which takes a free one and says which."""

    @property
    def attempt(self) -> Attempt:
        return Attempt(
            plan=self.plan,
            run_dir=self.run_dir,
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
