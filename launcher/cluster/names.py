"""The clusters that a person has named: addresses, and where their tokens are; never the tokens.

What happens on a cluster is `jobs`'s knowledge.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.errors import SpecError


@dataclass(frozen=True)
class Cluster:
    """A cluster's Jobs API, and the file with the token for it."""

    name: str
    """Empty: it was given by its address."""
    url: str
    token_file: str = ""
    """Empty: the token, if there is one, is where Ray itself looks for it."""
    storage: str = ""
    """A folder that all its hosts share: where runs are kept unless said otherwise."""

    def __str__(self) -> str:
        return self.name or self.url


class ClusterNames:
    """The file that keeps them, in the person's configuration folder, readable by nobody else."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> list[Cluster]:
        """By name."""
        try:
            entries = json.loads(self._file.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise SpecError(f"{self._file} cannot be read: {error}; mend or remove it") from error
        return [Cluster(name=name, **entries[name]) for name in sorted(entries)]

    def find(self, reference: str) -> Cluster:
        """The cluster of that name or address."""
        if "://" in reference:
            known = [cluster for cluster in self.all() if cluster.url == reference.rstrip("/")]
            return known[0] if known else Cluster("", reference.rstrip("/"))
        found = [cluster for cluster in self.all() if cluster.name == reference]
        if not found:
            names = ", ".join(cluster.name for cluster in self.all()) or "none"
            raise SpecError(
                f"no cluster is named {reference} (known: {names}); "
                f"`launcher cluster add {reference} http://HEAD:8265` names one"
            )
        return found[0]

    def add(self, cluster: Cluster) -> None:
        """Names a cluster, or gives a name another one."""
        others = [known for known in self.all() if known.name != cluster.name]
        self._write([*others, cluster])

    def remove(self, name: str) -> None:
        """Forgets a name; SpecError when there is none like it."""
        self.find(name)
        self._write([known for known in self.all() if known.name != name])

    def _write(self, clusters: list[Cluster]) -> None:
        entries = {
            cluster.name: {k: v for k, v in asdict(cluster).items() if k != "name"}
            for cluster in clusters
        }
        scratch = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch.unlink(missing_ok=True)
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(entries, file, indent=2)
            scratch.replace(self._file)
        except OSError as error:
            raise SpecError(f"{self._file} cannot be written: {error.strerror}") from error
