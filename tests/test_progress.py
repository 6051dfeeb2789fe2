"""A hang is told from slow steps, by what the ranks showed of themselves before."""

import pytest

from launcher.engines.progress import Progress


class Ranks:
    """Two ranks that beat together, and a clock."""

    def __init__(self, *, patience: float = 10.0) -> None:
        self._progress = Progress(2, timeout_s=60.0, patience=patience)
        self.now = 1e9
        assert not self._progress.stalled(now=self.now)

    def beat(self, *, every_s: float, times: int = 1) -> None:
        for _ in range(times):
            self.now += every_s
            for rank in (0, 1):
                self._progress.beat(rank)
            assert not self._progress.stalled(now=self.now)

    def stalls_after_s(self) -> float:
        """How long a pause from now on is taken for a hang."""
        return next(
            float(pause) for pause in range(1, 5000) if self._progress.stalled(now=self.now + pause)
        )


def test_before_the_first_beat_ranks_are_being_set_up() -> None:
    progress = Progress(2, timeout_s=60.0, patience=0.0)
    assert not progress.stalled(now=1e9)
    assert not progress.stalled(now=2e9)


def test_a_time_out_of_the_spec_is_exact_from_the_first_beat_on() -> None:
    ranks = Ranks(patience=0.0)
    ranks.beat(every_s=1.0)
    assert ranks.stalls_after_s() == 60


def test_the_first_steps_may_take_their_time() -> None:
    ranks = Ranks()
    ranks.beat(every_s=1.0)
    assert ranks.stalls_after_s() == 600


def test_quick_steps_hang_after_a_minute_whatever_compilation_took() -> None:
    ranks = Ranks()
    ranks.beat(every_s=1.0)
    ranks.beat(every_s=200.0, times=2)
    ranks.beat(every_s=1.0, times=20)
    assert ranks.stalls_after_s() == 60


@pytest.mark.parametrize("step_s", [20.0, 100.0, 400.0])
def test_slow_steps_are_no_hang(step_s: float) -> None:
    ranks = Ranks()
    ranks.beat(every_s=step_s, times=30)
    assert ranks.stalls_after_s() == 10 * step_s


def test_one_rank_that_moves_is_enough() -> None:
    progress = Progress(2, timeout_s=60.0, patience=0.0)
    progress.beat(0)
    assert not progress.stalled(now=1e9)
    progress.beat(1)
    assert not progress.stalled(now=1e9 + 59)
    assert not progress.stalled(now=1e9 + 118)
    assert progress.stalled(now=1e9 + 119)
    assert progress.counts() == (1, 1)
