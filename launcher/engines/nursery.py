"""Forks the ranks of each attempt and watches them: what the zygote does, their only parent.

Commands come on stdin as JSON lines, the end of each attempt goes to stdout; what happens inside
a rank is `rank_process`'s knowledge. When stdin ends, however it ended, every rank is killed.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

from launcher.contracts import Attempt
from launcher.distributed import Rendezvous
from launcher.engines import rank_process
from launcher.engines.verdict import verdict
from launcher.outcome import AttemptEnd
from launcher.plan import RunPlan
from launcher.resources import oom_kill_count

_POLL_S = 0.25
"""How often time alone can change something: a hang."""
_POLL_DYING_S = 0.02
_LAST_WORDS_S = 0.3
"""How long after the first death the other ranks may still say why they die, too."""


class Group:
    """The ranks of one attempt. One that is done stays until all are: then all end at once."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._ranks: list[rank_process.RankProcess] = []
        self._progress = rank_process.Progress(attempt.plan.ranks.world_size)
        self._hang_timeout_s = attempt.plan.retries.hang_timeout_s
        self._hung_rank: int | None = None
        self._oom_kills = oom_kill_count()
        self._first_death = 0.0

    def start(self) -> None:
        """Forks every rank. They meet at a socket that listens before the first of them exists."""
        world_size = self._attempt.plan.ranks.world_size
        with socket.create_server(("127.0.0.1", 0)) as listener:
            meeting = Rendezvous("127.0.0.1", listener.getsockname()[1], listener.fileno())
            self._ranks = [
                rank_process.fork(
                    self._attempt, number=rank, rendezvous=meeting, progress=self._progress
                )
                for rank in range(world_size)
            ]

    def watch(self) -> None:
        """Reaps what died; once one rank failed, or all are done, kills the rest."""
        for rank in self._ranks:
            rank.reap()
        ends = [rank.end() for rank in self._ranks]
        now = time.monotonic()
        if not self._first_death and any(end.failed for end in ends):
            self._first_death = now
        if all(end.done for end in ends) or (
            self._first_death and now - self._first_death > _LAST_WORDS_S
        ):
            self.kill()
        elif self._hung_rank is None and self._progress.stalled(self._hang_timeout_s, now=now):
            self._hung_rank = self._progress.slowest(end.rank for end in ends if not end.done)
            self._first_death = self._first_death or now
            for rank in self._ranks:
                rank.signal(rank_process.DUMP_STACKS)

    def stop(self) -> None:
        """Asks every rank to save and end."""
        for rank in self._ranks:
            rank.signal(rank_process.ASK_TO_STOP)

    def kill(self) -> None:
        """Ends every rank and what it started."""
        for rank in self._ranks:
            rank.kill()

    @property
    def poll_s(self) -> float:
        return _POLL_DYING_S if self._first_death else _POLL_S

    @property
    def over(self) -> bool:
        return all(rank.status is not None for rank in self._ranks)

    def end(self) -> AttemptEnd:
        """How the attempt ended, once it is over."""
        for rank in self._ranks:
            rank.kill()  # what a rank left running in its process group
        return verdict(
            [rank.end() for rank in self._ranks],
            hung_rank=self._hung_rank,
            hang_timeout_s=self._hang_timeout_s,
            out_of_memory=oom_kill_count() > self._oom_kills,
        )


def serve() -> None:
    """Serves attempts until stdin ends."""
    for polite in (signal.SIGINT, signal.SIGTERM):  # a batch system sends it to every process:
        signal.signal(polite, signal.SIG_IGN)  # the launcher asks the ranks to stop
    group: Group | None = None
    commands = _Commands(sys.stdin.fileno())
    try:
        while not commands.ended:
            for line in commands.read(timeout_s=group.poll_s if group else None):
                group = _obey(json.loads(line), group)
            if group is None:
                continue
            group.watch()
            if group.over:
                print(group.end().model_dump_json(), flush=True)  # noqa: T201  # the protocol
                group = None
    finally:
        if group is not None:
            group.kill()


def _obey(command: dict[str, Any], group: Group | None) -> Group | None:
    match command:
        case {"command": "start", **values}:
            group = Group(Attempt(**{**values, "plan": RunPlan.model_validate(values["plan"])}))
            group.start()
        case {"command": "stop"} if group:
            group.stop()
    return group


class _Commands:
    """Lines of a pipe as they come. Waiting for them also ends when a rank reports or dies."""

    def __init__(self, fd: int) -> None:
        self.ended = False
        self._fd = fd
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.signal(rank_process.NEWS, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def read(self, *, timeout_s: float | None) -> list[bytes]:
        ready = {key.fd for key, _ in self._selector.select(timeout_s)}
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        if self._fd not in ready:
            return []
        chunk = os.read(self._fd, 1 << 20)
        self.ended = not chunk
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines
