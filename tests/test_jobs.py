"""The output of a job is followed whole and once, whatever becomes of the stream it comes in."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from launcher.cluster import jobs
from launcher.cluster.jobs import Jobs
from launcher.cluster.names import Cluster

SHORT = [f"line {number}\n" for number in range(20)]
LONG = [f"line {number} {'x' * 4000}\n" for number in range(20)]


@dataclass
class FakeRay:
    """A job that prints a piece whenever it is asked anything, and ends after the last."""

    pieces: list[str]
    break_after: int = 1_000
    """Pieces after which each stream breaks."""
    error: Exception | None = None
    """With which it breaks; None: it goes silent."""
    printed: int = 0
    whole_reads: int = 0
    streamed: list[str] = field(default_factory=list)

    def get_job_info(self, job_id: str) -> JobDetails:
        ended = self.printed >= len(self.pieces)
        self.printed += 1
        status = JobStatus.SUCCEEDED if ended else JobStatus.RUNNING
        return JobDetails(
            type=JobType.SUBMISSION, entrypoint="", submission_id=job_id, status=status
        )

    def get_job_logs(self, _: str) -> str:
        self.whole_reads += 1
        return "".join(self.pieces[: self.printed])

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for number in itertools.count():
            if number == self.break_after:
                if self.error is not None:
                    raise self.error
                await asyncio.Event().wait()
            if number >= len(self.pieces):
                return
            self.printed = max(self.printed, number + 1)
            self.streamed.append(self.pieces[number])
            yield self.pieces[number]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_POLL_S", 0.0)
    monkeypatch.setattr(jobs, "_SILENCE_S", 0.05)


def follow(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> str:
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda *_, **__: ray)
    return "".join(Jobs(Cluster("lab", "http://head:8265")).follow("job"))


def test_a_short_output_is_asked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(SHORT)
    assert follow(monkeypatch, ray) == "".join(SHORT)
    assert not ray.streamed


def test_a_long_output_is_not_read_whole_for_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(LONG)
    assert follow(monkeypatch, ray) == "".join(LONG)
    assert ray.streamed == LONG
    assert ray.whole_reads <= 6


@pytest.mark.parametrize(
    "error", [RuntimeError("closed unexpectedly"), ConnectionResetError(), None], ids=str
)
@pytest.mark.parametrize("break_after", [0, 3, 8, 19])
def test_a_stream_that_breaks_or_goes_silent_is_taken_up_where_it_was(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, break_after: int
) -> None:
    ray = FakeRay(LONG, break_after=break_after, error=error)
    assert follow(monkeypatch, ray) == "".join(LONG)


def test_what_ray_says_of_its_own_doings_is_not_shown(tmp_path: Path) -> None:
    code = (
        "import logging; from launcher.cluster import jobs; from launcher.cluster.names import *\n"
        "jobs.JobSubmissionClient = lambda *_, **__: None\n"
        "jobs.Jobs(Cluster('lab', 'http://head:8265'))\n"
        "logging.getLogger('ray.dashboard.modules.dashboard_sdk').info('Uploading package')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr == ""
