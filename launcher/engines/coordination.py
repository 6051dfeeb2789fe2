"""Decides, from what each host says of its ranks, what to tell the hosts: when to start and end.

Pure: no clock, no processes, no network; the engines carry messages and time.
"""

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.engines.protocol import Message, News, Order, RankEnd, Start
from launcher.engines.verdict import verdict
from launcher.outcome import AttemptEnd

_LAST_WORDS_S = 0.3
"""How long after the first death the ranks of other hosts may still say why they die, too."""
Post = tuple[int, Message]
"""The number of a host, and what to tell it."""


@dataclass
class _Host:
    start: Start
    started: bool = False
    told_to_end: bool = False
    news: News | None = None

    @property
    def state(self) -> str:
        return self.news.state if self.news else ""

    @property
    def ranks(self) -> range:
        return range(self.start.first_rank, self.start.first_rank + self.start.ranks)


class Coordination:
    """One attempt over one host or many; host 0 has rank 0."""

    def __init__(self, starts: Sequence[Start]) -> None:
        self._hosts = [_Host(start) for start in starts]
        self._stalled_s = 0.0
        self._hung_rank: int | None = None
        self._first_death: float | None = None

    def begin(self) -> Iterator[Post]:
        """Rank 0's host goes first: the others must know where to meet."""
        yield 0, self._start(0, port=0)

    def hear(self, number: int, news: News, *, now: float) -> Iterator[Post]:
        """Takes a host's news. `now` is in seconds of any clock that `tick` uses too."""
        host = self._hosts[number]
        if host.state == "ended":
            return
        host.news = news
        match news.state:
            case "listening" if self._first_death is None:
                for other in range(1, len(self._hosts)):
                    yield other, self._start(other, port=news.port)
            case "done" if all(host.state == "done" for host in self._hosts):
                yield from self._end_all()
            case "done" | "stalled" if self._hung_rank is None and self._all_stalled():
                counts = self._counts()
                self._hung_rank = min(counts, key=lambda rank: counts[rank])
                self._stalled_s = max(host.news.stalled_s for host in self._hosts if host.news)
                yield from self._tell_all(Order(command="dump"))
                self._dying(now)
            case "ended":
                self._dying(now)

    def lose(self, number: int, message: str, *, now: float) -> Iterator[Post]:
        """Takes it that a host's ranks are gone, all at once; the message says with what."""
        host = self._hosts[number]
        ends = tuple(
            RankEnd(
                rank=rank,
                exit_status=-signal.SIGKILL,
                died=math.inf,  # what a rank said itself before counts more
                report=None,
                killed_by_us=False,
                lost_with=message,
            )
            for rank in host.ranks
        )
        yield from self.hear(number, News(state="ended", ends=ends), now=now)

    def stop(self) -> Iterator[Post]:
        """A person's wish: save and end."""
        yield from self._tell_all(Order(command="stop"))

    def tick(self, *, now: float) -> Iterator[Post]:
        """What is due by now, whatever was heard."""
        if self._first_death is not None and now - self._first_death >= _LAST_WORDS_S:
            yield from self._end_all()

    @property
    def dying(self) -> bool:
        """Whether the attempt is about to end: `tick` soon."""
        return self._first_death is not None

    @property
    def over(self) -> bool:
        return all(host.state == "ended" for host in self._hosts)

    def end(self) -> AttemptEnd:
        """How the attempt ended, once it is over."""
        ends = [end for host in self._hosts if host.news for end in host.news.ends]
        return verdict(
            sorted(ends, key=lambda end: end.rank),
            hung_rank=self._hung_rank,
            stalled_s=self._stalled_s,
            out_of_memory=any(host.news and host.news.out_of_memory for host in self._hosts),
        )

    def _start(self, number: int, *, port: int) -> Start:
        self._hosts[number].started = True
        return self._hosts[number].start.model_copy(update={"port": port})

    def _dying(self, now: float) -> None:
        if self._first_death is None:
            self._first_death = now

    def _all_stalled(self) -> bool:
        """A host that has not moved yet while another stands still is not setting up any more."""
        states = [host.state for host in self._hosts]
        return "stalled" in states and not {"moving", "ended"} & set(states)

    def _counts(self) -> dict[int, int]:
        """Work done by the ranks that are not done; of a host that never moved, none."""
        counts: dict[int, int] = {}
        for host in self._hosts:
            if host.news and host.state == "stalled":
                counts |= host.news.counts
            elif host.state != "done":
                counts |= dict.fromkeys(host.ranks, 0)
        return counts

    def _end_all(self) -> Iterator[Post]:
        for number, host in enumerate(self._hosts):
            if not host.started:
                host.news = News(state="ended")
            elif host.state != "ended" and not host.told_to_end:
                host.told_to_end = True
                yield number, Order(command="end")

    def _tell_all(self, order: Order) -> Iterator[Post]:
        for number, host in enumerate(self._hosts):
            if host.started and host.state != "ended":
                yield number, order
