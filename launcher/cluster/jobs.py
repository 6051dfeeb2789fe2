"""Jobs on a Ray cluster through its Jobs API. What a job runs is a `launcher` command.

Ray's client packs and sends code, and sends nothing that the cluster has already.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import launcher
from launcher.cluster.names import Cluster
from launcher.errors import ClusterError
from launcher.packing import Packed

_POLL_S = 0.5
_PATIENCE_S = 60.0
_LONG_CHARS = 1 << 14
"""From here on an output is streamed."""
_SILENCE_S = 60.0
"""How long a stream may say nothing before it is asked for anew: its connection may be dead."""
_KNOCK_S = 10.0
T = TypeVar("T")
State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]


@dataclass(frozen=True)
class Job:
    """A job, as the cluster knows it."""

    id: str
    state: State
    exit_code: int | None
    """Of its command, once it ended by itself."""
    metadata: Mapping[str, str]
    message: str

    @property
    def ended(self) -> bool:
        return JobStatus(self.state).is_terminal()


class Jobs:
    """The jobs of one cluster; ClusterError where it cannot be reached or refuses us."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        _hush_ray()
        with self._errors():
            self._client = JobSubmissionClient(cluster.url, headers=_headers(cluster))

    def submit(
        self,
        job_id: str,
        command: str,
        *,
        folder: Path | None,
        files: Sequence[Packed],
        metadata: Mapping[str, str],
    ) -> None:
        """Starts a command in a copy of these files of a folder, the launcher itself beside it."""
        with _staged(folder, files) as staged, self._errors():
            environment: dict[str, object] = {"py_modules": [str(staged / "launcher")]}
            if folder is not None:
                environment["working_dir"] = str(staged / "code")
            self._client.submit_job(
                entrypoint=command,
                submission_id=job_id,
                runtime_env=environment,
                metadata=dict(metadata),
            )

    def open_to_all(self) -> bool:
        """Whether it tells of its jobs whoever comes, without a token."""
        try:
            with urllib.request.urlopen(f"{self._cluster.url}/api/jobs/", timeout=_KNOCK_S) as told:
                return bool(told.headers.get_content_type() == "application/json")  # no login page
        except urllib.error.HTTPError:
            return False
        except OSError as error:
            raise ClusterError(self._silence()) from error

    def all(self) -> list[Job]:
        """Those that were submitted, the newest last."""
        with self._errors():
            found = self._client.list_jobs()
        jobs = [details for details in found if details.submission_id]
        return [_job(details) for details in sorted(jobs, key=lambda d: d.start_time or 0)]

    def get(self, job_id: str) -> Job:
        with self._errors():
            return _job(self._client.get_job_info(job_id))

    def output(self, job_id: str) -> str:
        """All that it printed so far."""
        with self._errors():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str) -> Iterator[str]:
        """What it prints, until its state says that it ended; nothing twice, nothing left out.

        The state is asked before the output, so the last piece is whole. Ray has no part of an
        output to give, so a long one is streamed between two of these looks at all of it; a short
        one is not, since Ray's stream is a second or two behind.
        """
        ended, shown = False, 0
        while not ended:
            ended = self._patiently(lambda: self.get(job_id).ended)
            output = self._patiently(lambda: self.output(job_id))
            sources = [iter([output])]
            if len(output) >= _LONG_CHARS and not ended:
                sources.append(self._stream(job_id))
            for pieces in sources:
                for piece in _beyond(shown, pieces):
                    shown += len(piece)
                    yield piece
            if not ended:
                time.sleep(_POLL_S)

    def _stream(self, job_id: str) -> Iterator[str]:
        """All that it printed and prints, until the stream ends, breaks, or may have broken."""
        pieces = self._client.tail_job_logs(job_id)
        broken = (OSError, RuntimeError, aiohttp.ClientError)
        with asyncio.Runner() as runner, contextlib.suppress(*broken):
            while piece := runner.run(_next(pieces)):
                yield piece

    def wait(self, job_id: str) -> Job:
        """The job, once it ended."""
        while not (job := self._patiently(lambda: self.get(job_id))).ended:
            time.sleep(_POLL_S)
        return job

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The answer; a laptop that slept, or a network that was away, is waited for."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return ask()
            except ClusterError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what Ray's client raises into one line that says what to do."""
        try:
            yield
        except OSError as error:  # that is what requests raises, too
            raise ClusterError(self._silence()) from error
        except (RuntimeError, RayError) as error:
            raise ClusterError(self._explain(str(error))) from error

    def _silence(self) -> str:
        return (
            f"cluster {self._cluster} does not answer at {self._cluster.url}; is its head up, "
            "and is this the address of its dashboard (port 8265)?"
        )

    def _explain(self, text: str) -> str:
        named = self._cluster.name or "NAME"
        if "401" in text or "403" in text or "uthentication" in text or "oken" in text:
            return (
                f"cluster {self._cluster} refuses us: its token is missing or wrong here; "
                f"`launcher cluster add {named} {self._cluster.url} --token-file FILE` with a copy "
                "of the head's ~/.ray/auth_token"
            )
        return f"cluster {self._cluster}: {text.splitlines()[0] if text else 'unknown error'}"


async def _next(pieces: AsyncIterator[str]) -> str:
    """Empty at the end; TimeoutError when nothing has come for long."""
    return await asyncio.wait_for(anext(pieces, ""), _SILENCE_S)


def _beyond(shown: int, pieces: Iterable[str]) -> Iterator[str]:
    """What comes after so many characters."""
    for piece in pieces:
        if rest := piece[shown:]:
            yield rest
        shown = max(0, shown - len(piece))


def _hush_ray() -> None:
    """It tells of each package that it sends; its modules have levels of their own, so here."""
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)


def _headers(cluster: Cluster) -> dict[str, str] | None:
    if not cluster.token_file:
        return None
    try:
        token = Path(cluster.token_file).expanduser().read_text().strip()
    except OSError as error:
        raise ClusterError(
            f"the token of cluster {cluster} cannot be read: {cluster.token_file}: {error.strerror}"
        ) from error
    return {"Authorization": f"Bearer {token}"}


@contextlib.contextmanager
def _staged(folder: Path | None, files: Sequence[Packed]) -> Iterator[Path]:
    """`code` with these files and `launcher`, nothing else, for Ray's client to pack."""
    with tempfile.TemporaryDirectory(prefix="launcher-upload-") as scratch:
        own = Path(launcher.__file__).parent
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(own, Path(scratch, "launcher"), ignore=skipped)
        for packed in files if folder else ():
            assert folder is not None
            target = Path(scratch, "code", packed.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / packed.name, target)
        yield Path(scratch)


def _job(details: JobDetails) -> Job:
    return Job(
        id=details.submission_id or "",
        state=details.status.value,
        exit_code=details.driver_exit_code,
        metadata=details.metadata or {},
        message=details.message or "",
    )
