"""Where the time of a run went, from what its events and rows say."""

from typing import Any

from launcher.timeline import spent

LAPS = {"build_s": 1.0, "meet_s": 0.5, "load_s": 0.5}


def event(name: str, time: float, attempt: int = 1, **values: Any) -> dict[str, Any]:
    return {"event": name, "time": time, "attempt": attempt, **values}


def rows(*times: float) -> list[dict[str, Any]]:
    return [{"step": step, "time": time} for step, time in enumerate(times, start=1)]


def test_the_parts_of_an_attempt_add_up_to_its_length() -> None:
    events = [
        event("attempt", 100.0),
        event("placed", 103.0, world_size=2, hosts=["a", "b"]),
        event("training", 110.0, step=0, **LAPS),
        {"event": "checkpoint", "time": 112.0, "step": 2},
    ]
    (only,) = spent(events, rows(112.0, 113.0, 114.0))
    assert only.ranks == "2 on 2 hosts"
    assert (only.wait_s, only.fork_s, only.first_step_s, only.train_s) == (3.0, 5.0, 2.0, 2.0)
    assert (only.steps, only.lost_steps, only.end) == (3, 0, "")


def test_steps_that_are_done_again_are_lost_in_the_attempt_that_failed() -> None:
    events = [
        event("attempt", 0.0),
        event("training", 2.0, step=0, **LAPS),
        event("failure", 10.0, step=7, kind="lost"),
        event("attempt", 11.0, 2),
        event("training", 12.0, 2, step=4, **LAPS),
    ]
    first, second = spent(events, rows(3.0, 4.0, 5.0, 6.0, 13.0, 14.0))
    assert (first.steps, first.lost_steps, first.end) == (7, 3, "lost")
    assert (second.steps, second.lost_steps) == (2, 0)
    assert (second.first_step_s, second.train_s) == (1.0, 1.0)


def test_an_attempt_that_never_trained_spent_its_time_on_the_way() -> None:
    events = [event("attempt", 0.0), event("failure", 4.0, step=0, kind="spec")]
    (only,) = spent(events, [])
    assert (only.fork_s, only.train_s, only.steps, only.end) == (4.0, 0.0, 0, "spec")


def test_the_pause_before_a_resume_is_no_time_of_training() -> None:
    events = [
        event("attempt", 0.0),
        event("training", 1.0, step=0, **LAPS),
        event("attempt", 36_000.0, 2),
        event("training", 36_001.0, 2, step=2, **LAPS),
    ]
    first, second = spent(events, rows(2.0, 3.0, 36_002.0))
    assert (first.first_step_s, first.train_s, first.steps) == (1.0, 1.0, 2)
    assert (second.train_s, second.steps) == (0.0, 1)
