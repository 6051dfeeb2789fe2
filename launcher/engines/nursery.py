"""Forks a host's ranks of each attempt and watches them: what the zygote does, their only parent.

Messages of `protocol` come on stdin and go to stdout; what happens inside a rank is
`rank_process`'s knowledge. When stdin ends, however it ended, every rank is killed.
"""

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

from launcher.distributed import Rendezvous
from launcher.engines import rank_process
from launcher.engines.progress import Progress
from launcher.engines.protocol import News, RankEnd, Start, parse_message
from launcher.resources import oom_kill_count

_POLL_S = 0.25
"""How often time alone can change something: a hang."""
_POLL_DYING_S = 0.02
_LAST_WORDS_S = 0.3
"""How long after the first death the other ranks may still say why they die, too."""


class Group:
    """The ranks of one attempt on this host. One that is done stays until it is told to end."""

    def __init__(self, start: Start, *, tell: Callable[[News], None]) -> None:
        self._start = start
        self._tell = tell
        self._ranks: list[rank_process.RankProcess] = []
        retries = start.plan.retries
        self._progress = Progress(
            start.ranks, timeout_s=retries.hang_timeout_s, patience=retries.hang_patience
        )
        self._state: Literal["", "moving", "stalled", "done"] = ""
        self._oom_kills = oom_kill_count()
        self._first_death = 0.0

    def start(self) -> None:
        """Forks every rank. They meet at a socket that listens before the first of them exists."""
        start = self._start
        if start.first_rank > 0:
            self._fork_all(Rendezvous(start.address, start.port, None))
            return
        with socket.create_server((start.address, 0)) as listener:
            port = listener.getsockname()[1]
            self._fork_all(Rendezvous(start.address, port, listener.fileno()))
        self._tell(News(state="listening", port=port))

    def _fork_all(self, rendezvous: Rendezvous) -> None:
        self._ranks = [
            rank_process.fork(
                self._start, local=local, rendezvous=rendezvous, progress=self._progress
            )
            for local in range(self._start.ranks)
        ]

    def watch(self) -> None:
        """Reaps what died; once one rank failed, kills the rest; tells what has changed."""
        for rank in self._ranks:
            rank.reap()
        ends = [rank.end() for rank in self._ranks]
        now = time.monotonic()
        if not self._first_death and any(end.failed for end in ends):
            self._first_death = now
        if self._first_death and now - self._first_death > _LAST_WORDS_S:
            self.kill()
        state = self._state_of(ends, now=now)
        if state and state != self._state:
            self._state = state
            counts, limit_s = self._counts(ends), self._progress.limit_s
            self._tell(News(state=state, counts=counts, stalled_s=limit_s))
        if all(rank.status is not None for rank in self._ranks):
            self._tell(self._end())

    def _state_of(
        self, ends: Sequence[RankEnd], *, now: float
    ) -> Literal["", "moving", "stalled", "done"]:
        if all(end.done for end in ends):
            return "done"
        if not any(self._progress.counts()):
            return ""
        return "stalled" if self._progress.stalled(now=now) else "moving"

    def _counts(self, ends: Sequence[RankEnd]) -> dict[int, int]:
        counts = zip(ends, self._progress.counts(), strict=True)
        return {end.rank: count for end, count in counts if not end.done}

    def signal(self, number: int) -> None:
        """Signals every rank."""
        for rank in self._ranks:
            rank.signal(number)

    def kill(self) -> None:
        """Ends every rank and what it started."""
        for rank in self._ranks:
            rank.kill()

    @property
    def poll_s(self) -> float:
        return _POLL_DYING_S if self._first_death else _POLL_S

    def _end(self) -> News:
        for rank in self._ranks:
            rank.kill()  # what a rank left running in its process group
        return News(
            state="ended",
            ends=tuple(
                rank.end().model_copy(update={"last_lines": rank.last_lines()})
                for rank in self._ranks
            ),
            out_of_memory=oom_kill_count() > self._oom_kills,
        )


class Nursery:
    """Obeys the engine, one attempt at a time."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def serve(self) -> None:
        """Serves attempts until stdin ends."""
        for polite in (signal.SIGINT, signal.SIGTERM):  # a batch system sends it to every process:
            signal.signal(polite, signal.SIG_IGN)  # the launcher asks the ranks to stop
        commands = _Commands(sys.stdin.fileno())
        try:
            while not commands.ended:
                for line in commands.read(timeout_s=self._group.poll_s if self._group else None):
                    self._obey(line)
                if self._group:
                    self._group.watch()
        finally:
            if self._group:
                self._group.kill()

    def _obey(self, line: bytes) -> None:
        command = parse_message(line)
        if isinstance(command, Start):
            if self._group:
                self._group.kill()
            self._group = Group(command, tell=self._tell)
            self._group.start()
        elif self._group:
            match command.command:
                case "stop":
                    self._group.signal(rank_process.ASK_TO_STOP)
                case "dump":
                    self._group.signal(rank_process.DUMP_STACKS)
                case "end":
                    self._group.kill()

    def _tell(self, news: News) -> None:
        if news.state == "ended":
            self._group = None
        print(news.model_dump_json(), flush=True)  # noqa: T201  # the protocol


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
