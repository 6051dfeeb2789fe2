"""The errors a person can mend, and the exit codes that programs may rely on.

Which failure is retried is decided in `retry`; how an error is worded for a terminal, in `cli`.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process exits with; part of the contract."""

    SUCCEEDED = 0
    BUG = 1
    SPEC = 2
    PREFLIGHT = 3
    CLUSTER = 4
    NO_CAPACITY = 5
    USER_CODE = 10
    OUT_OF_MEMORY = 11
    HANG = 12
    LOST = 13
    DIVERGED = 14
    STOPPED = 20
    STILL_RUNNING = 21
    NO_SUCH_RUN = 22


class LauncherError(Exception):
    """Something a person can mend: shown as one message, without a traceback.

    Takes one string, so that it crosses process boundaries unchanged.
    """

    exit_code = ExitCode.BUG


class SpecError(LauncherError):
    """The job spec, or how a command was called, is wrong."""

    exit_code = ExitCode.SPEC


class PreflightError(LauncherError):
    """This machine cannot run the plan as it stands."""

    exit_code = ExitCode.PREFLIGHT


class ClusterError(LauncherError):
    """The cluster cannot be reached, or refused us."""

    exit_code = ExitCode.CLUSTER


class StorageError(LauncherError):
    """The storage is full, read-only or unreadable; whatever was committed to it is untouched."""

    exit_code = ExitCode.PREFLIGHT


class DivergedError(LauncherError):
    """The loss stopped being a finite number."""

    exit_code = ExitCode.DIVERGED


class NoSuchRunError(LauncherError):
    """No run goes by that name in the storage."""

    exit_code = ExitCode.NO_SUCH_RUN
