"""The actor on each host: owns the zygote there, and passes messages to and from it.

It imports no torch, so it is there at once; the ranks are forked by the zygote as on one machine.
"""

from collections.abc import Sequence
from pathlib import Path

from launcher import rundir
from launcher.engines.protocol import parse_message
from launcher.engines.zygote_process import ZygoteProcess
from launcher.errors import StorageError
from launcher.resources import lacking_secrets, own_python_path
from launcher.resources.network import interface_environment
from launcher.resources.secrets import find_secrets
from launcher.rundir import RunDir


class Host:
    """One host's ranks, over all attempts in which it takes part. Its messages are JSON."""

    def __init__(self, address: str, *, threads_per_rank: int, secrets: Sequence[str]) -> None:
        self._address = address
        found, self._lacking = find_secrets(secrets, home=Path.home())
        self._zygote = ZygoteProcess(
            environment={
                "OMP_NUM_THREADS": str(threads_per_rank),
                "PYTHONPATH": own_python_path(),
                **interface_environment(address),
                **found,
            }
        )

    def problems(self, run_dir: str, marker: str) -> list[str]:
        """What keeps ranks from training here; `marker` is what the driver wrote to the run."""
        found = [lacking_secrets(self._lacking, host=self._address)] if self._lacking else []
        return found + storage_problems(RunDir(run_dir), marker, host=self._address)

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


def storage_problems(run_dir: RunDir, marker: str, *, host: str) -> list[str]:
    """Why this host cannot keep a run there: it sees another folder, or may not write."""
    own = f"{rundir.PROBE}-{host}"
    try:
        if not run_dir.exists(rundir.PROBE) or run_dir.read(rundir.PROBE).decode() != marker:
            return [
                f"host {host} does not see in {run_dir.url} what the head wrote there; name a "
                "storage that all hosts share"
            ]
        run_dir.write(own, marker.encode())
        run_dir.remove(own)
    except (StorageError, FileNotFoundError) as error:
        return [f"host {host}: {error}"]
    return []
