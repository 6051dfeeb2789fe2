"""From how the ranks ended follows which one is to blame, and what the attempt came to."""

import signal
from typing import Any

import pytest

from launcher.engines.protocol import RankEnd
from launcher.engines.verdict import verdict
from launcher.outcome import AttemptEnd, Failure, Kind, Status


def says(kind: Kind, rank: int) -> AttemptEnd:
    failure = Failure(kind=kind, message=f"{kind} of rank {rank}", rank=rank)
    return AttemptEnd(status="failed", failure=failure)


def rank_end(rank: int, report: AttemptEnd | Status | None = "succeeded", **known: Any) -> RankEnd:
    """A rank that finished, unless said otherwise."""
    values = {"exit_status": 0, "died": 10.0 + rank, "killed_by_us": False}
    said = AttemptEnd(status=report) if isinstance(report, str) else report
    return RankEnd(rank=rank, report=said, **(values | known))


def judge(*ends: RankEnd, hung_rank: int | None = None, out_of_memory: bool = False) -> AttemptEnd:
    return verdict(ends, hung_rank=hung_rank, stalled_s=60.0, out_of_memory=out_of_memory)


def blame(*ends: RankEnd, **known: Any) -> Failure:
    end = judge(*ends, **known)
    assert end.status == "failed"
    assert end.failure
    return end.failure


def test_an_attempt_succeeds_when_every_rank_finished() -> None:
    assert judge(rank_end(0), rank_end(1)) == AttemptEnd(status="succeeded")


def test_an_attempt_is_stopped_when_one_rank_was_stopped() -> None:
    assert judge(rank_end(0), rank_end(1, "stopped")).status == "stopped"


def test_ranks_that_were_killed_at_a_persons_wish_are_a_stop() -> None:
    killed = {"exit_status": -signal.SIGKILL, "killed_by_us": True}
    assert judge(rank_end(0, None, **killed), rank_end(1, None, **killed)).status == "stopped"


def test_a_rank_that_only_lost_its_peer_is_not_to_blame_even_if_it_died_first() -> None:
    failure = blame(
        rank_end(0, says("lost", 0), exit_status=1, died=1.0),
        rank_end(1, says("user_code", 1), exit_status=1, died=2.0),
    )
    assert failure.rank == 1
    assert failure.kind == "user_code"


def test_of_several_the_first_to_die_is_to_blame() -> None:
    failure = blame(
        rank_end(0, says("user_code", 0), exit_status=1, died=2.0),
        rank_end(1, says("user_code", 1), exit_status=1, died=1.0),
    )
    assert failure.rank == 1


def test_a_rank_that_was_killed_from_outside_is_to_blame_and_not_those_that_we_killed() -> None:
    failure = blame(
        rank_end(0, None, exit_status=-signal.SIGKILL, killed_by_us=True, died=1.0),
        rank_end(1, None, exit_status=-signal.SIGKILL, died=2.0),
    )
    assert failure.rank == 1
    assert failure.kind == "lost"
    assert failure.message == "rank 1: killed by SIGKILL"


def test_ranks_that_lost_a_peer_nobody_knows_of_are_a_loss() -> None:
    assert blame(rank_end(0, says("lost", 0), exit_status=1), rank_end(1)).kind == "lost"


@pytest.mark.parametrize("code", [0, 3])
def test_leaving_in_the_middle_without_a_word_is_the_users_code(code: int) -> None:
    failure = blame(rank_end(0, says("lost", 0), died=2.0), rank_end(1, None, exit_status=code))
    assert failure.kind == "user_code"
    assert failure.message == f"rank 1: exited with code {code} in the middle"


def test_a_kill_counts_as_out_of_memory_only_when_the_kernel_counted_one() -> None:
    ends = rank_end(0), rank_end(1, None, exit_status=-signal.SIGKILL)
    assert blame(*ends).kind == "lost"
    assert blame(*ends, out_of_memory=True).kind == "out_of_memory"
    terminated = rank_end(1, None, exit_status=-signal.SIGTERM)
    assert blame(rank_end(0), terminated, out_of_memory=True).kind == "lost"


def test_a_crash_in_native_code_is_the_users_code_and_not_a_loss() -> None:
    failure = blame(rank_end(0), rank_end(1, None, exit_status=-signal.SIGSEGV))
    assert failure.kind == "user_code"
    assert failure.message == "rank 1: crashed with SIGSEGV"


def test_a_hang_names_the_rank_that_is_behind_and_shows_its_stack() -> None:
    stack = "Current thread 0x0 (most recent call first):"
    hung = rank_end(1, None, exit_status=-signal.SIGKILL, killed_by_us=True, last_lines=stack)
    failure = blame(rank_end(0, None, killed_by_us=True), hung, hung_rank=1)
    assert failure.kind == "hang"
    assert failure.message == "rank 1: no rank made progress for 60 s; rank 1 is behind"
    assert failure.traceback == stack


def test_a_rank_that_went_with_its_host_is_lost_in_the_hosts_words() -> None:
    gone = rank_end(1, None, exit_status=-signal.SIGKILL, lost_with="host b was lost")
    failure = blame(rank_end(0, says("lost", 0)), gone)
    assert (failure.kind, failure.message) == ("lost", "rank 1: host b was lost")
