"""A failed run starts again within its budgets, and never where it could only fail the same way."""

import pytest

from launcher.outcome import Failure, Kind
from launcher.plan import Retries
from launcher.retry import Failed, decide

RETRIES = Retries(node_loss=3, crash=2, hang=1, hang_timeout_s=300, hang_patience=0.0)


def failed(kind: Kind, *, start: int = 0, end: int = 10, message: str = "") -> Failed:
    failure = Failure(kind=kind, message=message or f"a case of {kind}", rank=1)
    return Failed(failure, start_step=start, end_step=end)


def test_a_lost_process_is_replaced_even_before_the_first_step() -> None:
    verdict = decide([failed("lost", end=0)], RETRIES)
    assert verdict.restart
    assert verdict.reason == "restart 1 of 3 for node_loss"


def test_a_budget_that_is_used_up_ends_the_run() -> None:
    history = [failed("lost") for _ in range(4)]
    assert decide(history[:3], RETRIES).restart
    verdict = decide(history, RETRIES)
    assert not verdict.restart
    assert verdict.reason == "retries.node_loss is 3, and all are used"


def test_each_kind_has_a_budget_of_its_own() -> None:
    lost = [failed("lost") for _ in range(3)]
    assert decide([*lost, failed("hang")], RETRIES).restart
    assert decide([*lost, failed("user_code")], RETRIES).restart
    assert not decide([*lost, failed("lost")], RETRIES).restart


def test_running_out_of_memory_counts_as_a_crash() -> None:
    history = [failed("user_code", end=10), failed("out_of_memory", end=20)]
    assert decide(history, RETRIES).reason == "restart 2 of 2 for crash"
    assert not decide([*history, failed("user_code", end=30)], RETRIES).restart


@pytest.mark.parametrize("kind", ["spec", "storage", "diverged", "bug"])
def test_what_would_only_happen_again_is_not_retried(kind: Kind) -> None:
    verdict = decide([failed(kind)], RETRIES)
    assert not verdict.restart
    assert kind in verdict.reason


@pytest.mark.parametrize("kind", ["user_code", "out_of_memory", "hang"])
def test_a_failure_before_the_first_step_is_not_retried(kind: Kind) -> None:
    assert not decide([failed(kind, start=8, end=8)], RETRIES).restart
    assert decide([failed(kind, start=8, end=9)], RETRIES).restart


def test_the_same_failure_at_the_same_step_is_not_retried_twice() -> None:
    first, again = failed("user_code", end=12), failed("user_code", start=8, end=12)
    assert decide([first], RETRIES).restart
    verdict = decide([first, again], RETRIES)
    assert not verdict.restart
    assert verdict.reason == "it failed at step 12 before"


def test_another_failure_at_the_same_step_is_retried() -> None:
    history = [failed("user_code", message="one"), failed("user_code", message="another")]
    assert decide(history, RETRIES).restart


def test_a_budget_of_zero_never_restarts() -> None:
    none = Retries(node_loss=0, crash=0, hang=0, hang_timeout_s=300, hang_patience=0.0)
    for kind in ("lost", "user_code", "hang"):
        assert not decide([failed(kind)], none).restart
