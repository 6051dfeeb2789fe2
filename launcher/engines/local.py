"""Several ranks on this host: talks to the process that forks and watches them.

That process (`zygote`) has imported torch and nothing else happened in it, so forking it is quick
and safe, at a restart as well. This side never imports torch.
"""

import time
from collections.abc import Iterable

from launcher import checkpoint
from launcher.contracts import Attempt, StopRequest
from launcher.engines.coordination import Coordination, Post
from launcher.engines.libraries import imported_ahead, require_here
from launcher.engines.protocol import Start
from launcher.engines.zygote_process import ZygoteProcess
from launcher.outcome import AttemptEnd, Failure
from launcher.plan import RunPlan
from launcher.resources import secrets_here
from launcher.workspace import with_code_here

_POLL_S = 0.2
_POLL_DYING_S = 0.02
_WATCHER = "the process that watches the ranks"


class LocalEngine:
    """The ranks of a run on this host, over all its attempts."""

    name = "local"
    restartable = True
    shows_output = False

    def __init__(self, plan: RunPlan, *, lock_fd: int) -> None:
        """`lock_fd`, the run's lock, stays open in every process, so it outlives none of them."""
        require_here(plan)
        self._imports = imported_ahead(plan)
        self._environment = {
            "OMP_NUM_THREADS": str(plan.ranks.threads_per_rank),
            **secrets_here(plan.secrets),
        }
        self._lock_fd = lock_fd
        self._zygote = self._start_zygote()

    def run(self, attempt: Attempt, *, stop: StopRequest) -> AttemptEnd:
        checkpoint.fetch(attempt.run_dir, attempt.checkpoint)
        if self._zygote.gone:
            self._zygote = self._start_zygote()
        coordination = Coordination([whole(attempt)])
        self._send(coordination.begin())
        try:
            self._follow(coordination, stop)
        except KeyboardInterrupt:
            self.close()
            return AttemptEnd(status="stopped")
        return self._own_failure() or coordination.end()

    def _own_failure(self) -> AttemptEnd | None:
        """A zygote that was not killed ended by a bug of ours; its log says which."""
        code = self._zygote.exit_code
        if code is None or code < 0:
            return None
        failure = Failure(kind="bug", rank=0, message=f"{_WATCHER} ended with code {code}")
        return AttemptEnd(status="failed", failure=failure)

    def _follow(self, coordination: Coordination, stop: StopRequest) -> None:
        """Returns when every rank is gone."""
        asked = False
        while not coordination.over:
            now = time.monotonic()
            if stop.graceful.is_set() and not asked:
                asked = True
                self._send(coordination.stop())
            for news in self._zygote.hear(
                timeout_s=_POLL_DYING_S if coordination.dying else _POLL_S
            ):
                self._send(coordination.hear(0, news, now=now))
            self._send(coordination.tick(now=now))
            if self._zygote.gone:
                self._send(coordination.lose(0, f"{_WATCHER} was killed", now=now))

    def close(self) -> None:
        self._zygote.close()

    def _start_zygote(self) -> ZygoteProcess:
        return ZygoteProcess(
            imports=self._imports, environment=self._environment, keep_open=[self._lock_fd]
        )

    def _send(self, posts: Iterable[Post]) -> None:
        for _, message in posts:
            self._zygote.tell(message)


def whole(attempt: Attempt) -> Start:
    """All ranks of an attempt, on one host."""
    return Start(
        plan=with_code_here(attempt.plan, attempt.run_dir),
        run_dir=str(attempt.run_dir.local()),
        number=attempt.number,
        checkpoint=attempt.checkpoint,
        first_rank=0,
        ranks=attempt.plan.ranks.world_size,
        address="127.0.0.1",
        port=0,
    )
