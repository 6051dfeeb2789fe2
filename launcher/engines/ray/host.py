"""The actor on each host: owns the zygote there, and passes messages to and from it.

It imports no torch, so it is there at once; the ranks are forked by the zygote as on one machine.
"""

from collections.abc import Sequence
from pathlib import Path

from launcher.engines.protocol import parse_message
from launcher.engines.zygote_process import ZygoteProcess
from launcher.resources import own_python_path
from launcher.resources.network import interface_environment
from launcher.resources.secrets import find_secrets


class Host:
    """One host's ranks, over all attempts in which it takes part. Its messages are JSON."""

    def __init__(self, address: str, *, threads_per_rank: int, secrets: Sequence[str]) -> None:
        found, self._lacking = find_secrets(secrets, home=Path.home())
        self._zygote = ZygoteProcess(
            environment={
                "OMP_NUM_THREADS": str(threads_per_rank),
                "PYTHONPATH": own_python_path(),
                **interface_environment(address),
                **found,
            }
        )

    def lacking(self) -> list[str]:
        """Names of secrets that this host has not."""
        return self._lacking

    def tell(self, line: str) -> None:
        """Passes on a message of the engine."""
        self._zygote.tell(parse_message(line))

    def hear(self, *, timeout_s: float) -> list[str] | None:
        """News that came within the time; None: the zygote is gone."""
        news = self._zygote.hear(timeout_s=timeout_s)
        return None if self._zygote.gone and not news else [n.model_dump_json() for n in news]

    def close(self) -> None:
        """Leaves no process behind."""
        self._zygote.close()
