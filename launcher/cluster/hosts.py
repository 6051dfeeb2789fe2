"""Starts Ray on this host, as a head or as one more host, the way a safe cluster needs it.

Ray's own command does it; for clouds, Ray's cluster launcher and KubeRay do more.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import ClusterError, SpecError
from launcher.resources import inherited_environment
from launcher.resources.network import interface_of

_HEALTH = {
    # A host that is cut off is given up after five checks, of 2 s each and 2 s apart; with Ray's
    # own 10 s that would be most of a restart, and a rank cannot tell a slow peer from a lost one.
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
_LAST_LINES = 5
_KNOCK_S = 5.0
_COMING_UP_S = 10.0
"""A network that has just come up, or a head that starts beside this host, is waited for."""
_BETWEEN_KNOCKS_S = 0.5


def start_head(address: str, *, port: int, dashboard_port: int, cpus: int | None) -> Path:
    """Starts a head that asks for a token; returns the file that has it."""
    _require_own(address)
    token = Path.home() / ".ray" / "auth_token"
    if not token.exists():
        token.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    _ray_start(
        [
            "--head",
            f"--node-ip-address={address}",
            f"--port={port}",
            f"--dashboard-host={address}",
            f"--dashboard-port={dashboard_port}",
            *_cpus(cpus),
        ],
        _HEALTH,
    )
    return token


def join(head: str, *, address: str, token_file: Path, cpus: int | None) -> None:
    """Starts a host of the cluster whose head is at HOST:PORT.

    SpecError and ClusterError where that cannot be, before Ray waits for it in silence.
    """
    if not token_file.is_file():
        raise ClusterError(f"there is no token in {token_file}; copy the head's ~/.ray/auth_token")
    _require_own(address)
    _require_answer(head)
    _ray_start(
        [f"--address={head}", f"--node-ip-address={address}", *_cpus(cpus)],
        {"RAY_AUTH_TOKEN_PATH": str(token_file.absolute())},
    )


def _require_own(address: str) -> None:
    if not interface_of(address):
        raise SpecError(
            f"--address is {address}, which no interface of this host has; name the one by which "
            "the others reach it (`ip addr` lists them)"
        )


def _require_answer(head: str) -> None:
    host, colon, port = head.rpartition(":")
    if not colon or not port.isdecimal():
        raise SpecError(f"the head is {head}, without a port; try {host or head}:6379")
    deadline = time.monotonic() + _COMING_UP_S
    while error := _knock(host, int(port)):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"nothing answers at {head} ({error.strerror or error}); is the head up, and is "
                "this its address and the port where hosts join (6379)?"
            ) from error
        time.sleep(_BETWEEN_KNOCKS_S)


def _knock(host: str, port: int) -> OSError | None:
    try:
        socket.create_connection((host, port), timeout=_KNOCK_S).close()
    except OSError as error:
        return error
    return None


def _cpus(cpus: int | None) -> list[str]:
    return [] if cpus is None else [f"--num-cpus={cpus}"]


def _ray_start(arguments: Sequence[str], environment: dict[str, str]) -> None:
    """Ranks find `python` as this one: Ray's hosts run what the job says by its name."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    done = subprocess.run(
        [*command, "--disable-usage-stats"],
        env=inherited_environment(RAY_AUTH_MODE="token", PATH=_own_path(), **environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if "AuthenticationError" in done.stdout:
        raise ClusterError("the cluster refuses this token; copy the head's ~/.ray/auth_token anew")
    if done.returncode != 0:
        said = "\n".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
        raise ClusterError(f"`ray start` failed with code {done.returncode}:\n{said}")


def _own_path() -> str:
    own = str(Path(sys.executable).parent)
    return f"{own}:{inherited_environment().get('PATH', '')}"
