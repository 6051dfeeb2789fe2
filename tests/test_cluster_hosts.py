"""A host that cannot join a cluster says why at once."""

import socket
import threading
from pathlib import Path

import pytest

from launcher.cluster import hosts
from launcher.errors import ClusterError, SpecError


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "auth_token"
    file.write_text("t" * 64)
    return file


def test_an_address_that_this_host_does_not_have_is_named(token: Path) -> None:
    with pytest.raises(SpecError, match=r"--address is 192\.0\.2\.7, which no interface"):
        hosts.join("127.0.0.1:6379", address="192.0.2.7", token_file=token, cpus=1)


def test_a_head_without_its_port_is_told_the_usual_one(token: Path) -> None:
    with pytest.raises(SpecError, match=r"without a port; try 10\.0\.0\.1:6379"):
        hosts.join("10.0.0.1", address="127.0.0.1", token_file=token, cpus=1)


def test_a_head_that_never_answers_is_named_with_what_to_look_at(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_COMING_UP_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ClusterError, match=f"nothing answers at 127.0.0.1:{port}"):
        hosts.join(f"127.0.0.1:{port}", address="127.0.0.1", token_file=token, cpus=1)


def test_a_head_that_comes_up_a_moment_later_is_waited_for(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_ray_start", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]

    def come_up() -> None:
        late.append(socket.create_server(("127.0.0.1", port)))

    late: list[socket.socket] = []
    timer = threading.Timer(0.7, come_up)
    timer.start()
    hosts.join(f"127.0.0.1:{port}", address="127.0.0.1", token_file=token, cpus=1)
    timer.join()
    late[0].close()


def test_a_missing_token_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="there is no token in"):
        hosts.join("10.0.0.1", address="127.0.0.1", token_file=tmp_path / "none", cpus=1)
