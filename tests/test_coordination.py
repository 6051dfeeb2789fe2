"""What the hosts of an attempt are told, from what they say; no host is anything but a number."""

import pytest

from launcher.engines.coordination import Coordination
from launcher.engines.protocol import Message, News, Order, RankEnd, Start
from launcher.outcome import AttemptEnd
from tests.plans import make_plan, ranks

TWO_A_HOST = 2


def start(first_rank: int, *, hosts: int) -> Start:
    return Start(
        plan=make_plan(ranks=ranks(TWO_A_HOST * hosts)),
        run_dir="/nowhere",
        number=1,
        checkpoint="",
        first_rank=first_rank,
        ranks=TWO_A_HOST,
        address="10.0.0.1",
        port=0,
    )


def ended(host: int, *, status: str | None = "succeeded", exit_status: int = -9) -> News:
    report = AttemptEnd.model_validate({"status": status}) if status else None
    return News(
        state="ended",
        ends=tuple(
            RankEnd(
                rank=rank,
                exit_status=exit_status,
                died=float(rank),
                report=report,
                killed_by_us=status is not None,
            )
            for rank in range(host * TWO_A_HOST, (host + 1) * TWO_A_HOST)
        ),
    )


class Attempt:
    """Hosts that were all told to start, and a clock."""

    def __init__(self, *, hosts: int = 2) -> None:
        self.now = 100.0
        self._of = Coordination([start(n * TWO_A_HOST, hosts=hosts) for n in range(hosts)])
        self.told: list[tuple[int, Message]] = list(self._of.begin())
        self.hear(0, News(state="listening", port=4567))
        self.starts = [(n, m) for n, m in self.told if isinstance(m, Start)]
        self.told.clear()

    def hear(self, host: int, news: News) -> None:
        self.told += self._of.hear(host, news, now=self.now)

    def lose(self, host: int) -> None:
        self.told += self._of.lose(host, f"host {host} was lost", now=self.now)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.told += self._of.tick(now=self.now)

    def orders(self) -> list[tuple[int, str]]:
        found = [(n, m.command) for n, m in self.told if isinstance(m, Order)]
        self.told.clear()
        return found

    def end(self) -> AttemptEnd:
        assert self._of.over
        return self._of.end()


def assert_hung(attempt: Attempt, *, rank: int) -> None:
    """Once every host has ended."""
    for host in (0, 1):
        attempt.hear(host, ended(host, status="stopped"))
    end = attempt.end()
    assert end.failure
    assert (end.failure.kind, end.failure.rank) == ("hang", rank)


def test_the_other_hosts_start_once_it_is_known_where_to_meet() -> None:
    starts = Attempt(hosts=3).starts
    assert [(number, message.first_rank, message.port) for number, message in starts] == [
        (0, 0, 0),
        (1, 2, 4567),
        (2, 4, 4567),
    ]


def test_a_host_that_is_done_is_ended_when_all_are() -> None:
    attempt = Attempt()
    attempt.hear(1, News(state="done"))
    assert attempt.orders() == []
    attempt.hear(0, News(state="done"))
    assert attempt.orders() == [(0, "end"), (1, "end")]
    for host in (0, 1):
        attempt.hear(host, ended(host))
    assert attempt.end().status == "succeeded"


def test_ranks_of_other_hosts_may_say_their_last_words_before_they_are_ended() -> None:
    attempt = Attempt()
    attempt.hear(1, ended(1, status=None))
    attempt.later(0.1)
    assert attempt.orders() == []
    attempt.later(0.3)
    assert attempt.orders() == [(0, "end")]
    attempt.later(1.0)
    assert attempt.orders() == []
    attempt.hear(0, ended(0, status="stopped"))
    end = attempt.end()
    assert end.failure
    assert end.failure.message == "rank 2: killed by SIGKILL"


def test_a_host_that_is_lost_is_named_and_ends_the_others() -> None:
    attempt = Attempt()
    attempt.lose(1)
    attempt.later(0.4)
    assert attempt.orders() == [(0, "end")]
    attempt.hear(0, ended(0, status="stopped"))
    end = attempt.end()
    assert end.failure
    assert (end.failure.kind, end.failure.message) == ("lost", "rank 2: host 1 was lost")


def test_a_standstill_on_one_host_alone_is_no_hang() -> None:
    attempt = Attempt()
    attempt.hear(1, News(state="moving"))
    attempt.hear(0, News(state="stalled", counts={0: 5, 1: 5}))
    attempt.hear(0, News(state="moving"))
    attempt.hear(1, News(state="stalled", counts={2: 4, 3: 5}))
    assert attempt.orders() == []


def test_a_host_that_never_moved_hangs_with_those_that_wait_for_it() -> None:
    attempt = Attempt()
    attempt.hear(0, News(state="stalled", counts={0: 1, 1: 1}))
    assert attempt.orders() == [(0, "dump"), (1, "dump")]
    assert_hung(attempt, rank=2)


def test_who_listens_when_the_attempt_is_dying_is_not_joined() -> None:
    of = Coordination([start(n * TWO_A_HOST, hosts=3) for n in range(3)])
    list(of.begin())
    list(of.lose(2, "host 2 was lost", now=1.0))
    assert list(of.hear(0, News(state="listening", port=4567), now=1.1)) == []


def test_a_standstill_everywhere_is_a_hang_of_the_rank_that_did_least() -> None:
    attempt = Attempt()
    attempt.hear(0, News(state="stalled", counts={0: 5, 1: 5}))
    attempt.hear(1, News(state="stalled", counts={2: 4, 3: 5}))
    assert attempt.orders() == [(0, "dump"), (1, "dump")]
    attempt.later(0.4)
    assert attempt.orders() == [(0, "end"), (1, "end")]
    assert_hung(attempt, rank=2)


def test_a_host_that_was_never_started_does_not_keep_an_attempt_open() -> None:
    of = Coordination([start(0, hosts=2), start(2, hosts=2)])
    told = list(of.begin())
    assert len(told) == 1
    list(of.lose(0, "host 0 was lost", now=1.0))
    assert list(of.tick(now=2.0)) == []
    assert of.over
    assert of.end().failure


@pytest.mark.parametrize("state", ["moving", "done"])
def test_what_a_host_says_after_its_end_changes_nothing(state: str) -> None:
    attempt = Attempt(hosts=1)
    attempt.hear(0, ended(0))
    attempt.hear(0, News.model_validate({"state": state}))
    assert attempt.end().status == "succeeded"


def test_a_lost_host_is_to_blame_though_its_peers_ended_first_and_it_was_told_to_end() -> None:
    attempt = Attempt()
    attempt.hear(0, ended(0, status="stopped"))
    attempt.later(0.4)
    assert attempt.orders() == [(1, "end")]
    attempt.lose(1)
    end = attempt.end()
    assert end.failure
    assert end.failure.message == "rank 2: host 1 was lost"
