"""How an attempt and a whole run ended, as data: what `-o json` prints and `outcome.json` keeps.

What follows from a failure is decided in `retry`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from launcher.errors import (
    ClusterError,
    DivergedError,
    ExitCode,
    LauncherError,
    NoSuchRunError,
    PreflightError,
    SpecError,
    StorageError,
)

Kind = Literal[
    "spec",
    "storage",
    "preflight",
    "cluster",
    "no_capacity",
    "user_code",
    "out_of_memory",
    "hang",
    "lost",
    "diverged",
    "no_such_run",
    "bug",
]
Status = Literal["succeeded", "failed", "stopped", "running", "lost"]
"""`lost`: its launcher was killed; the run can be resumed."""

_EXIT_CODES: dict[Kind, ExitCode] = {
    "spec": ExitCode.SPEC,
    "storage": ExitCode.PREFLIGHT,
    "preflight": ExitCode.PREFLIGHT,
    "cluster": ExitCode.CLUSTER,
    "no_capacity": ExitCode.NO_CAPACITY,
    "user_code": ExitCode.USER_CODE,
    "out_of_memory": ExitCode.OUT_OF_MEMORY,
    "hang": ExitCode.HANG,
    "lost": ExitCode.LOST,
    "diverged": ExitCode.DIVERGED,
    "no_such_run": ExitCode.NO_SUCH_RUN,
    "bug": ExitCode.BUG,
}


class Failure(BaseModel):
    """Why an attempt ended before its time, and which rank was the first to say so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    message: str
    rank: int
    traceback: str = ""
    """Python's traceback, or the last lines of the rank's log."""

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES[self.kind]


def failure_of(error: LauncherError, *, rank: int = 0) -> Failure:
    """What stopped an attempt that a person can mend."""
    kinds: list[tuple[type[LauncherError], Kind]] = [
        (SpecError, "spec"),
        (StorageError, "storage"),
        (PreflightError, "preflight"),
        (ClusterError, "cluster"),
        (DivergedError, "diverged"),
        (NoSuchRunError, "no_such_run"),
    ]
    kind = next((kind for known, kind in kinds if isinstance(error, known)), "bug")
    return Failure(kind=kind, message=str(error), rank=rank)


def refused(failure: Failure) -> dict[str, Any]:
    """The document of a command that came to no run."""
    return {
        "schema": 1,
        "run_id": None,
        "status": "failed",
        "exit_code": failure.exit_code,
        "run_dir": None,
        "attempts": 0,
        "step": 0,
        "epoch": 0,
        "metrics": {},
        "checkpoint": None,
        "error": failure.model_dump(mode="json"),
    }


class AttemptEnd(BaseModel):
    """How one attempt ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Status
    failure: Failure | None = None
    to_resize: bool = False
    """It was stopped only to go on with another number of ranks."""


class Outcome(BaseModel):
    """How the run ended: the document that other programs read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True
    )

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run_id: str
    status: Status
    exit_code: int
    run_dir: str
    attempts: int
    step: int
    epoch: int
    metrics: dict[str, float | None]
    """The newest value of each metric; null where it was not finite."""
    checkpoint: str | None
    error: Failure | None
