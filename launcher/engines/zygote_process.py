"""A zygote seen from outside: how it is started, told and heard, and how it is ended.

What the messages mean is `coordination`'s knowledge.
"""

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, cast

from launcher.engines.protocol import Message, News
from launcher.resources import inherited_environment


class ZygoteProcess:
    """The process from which the ranks of this host are forked."""

    def __init__(
        self,
        *,
        imports: Sequence[str],
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
    ) -> None:
        """`imports` are made ahead, beside torch's; `environment` is added to this process's;
        `keep_open` are descriptors it inherits."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "launcher.engines.zygote", *imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=keep_open,
            start_new_session=True,
            env=inherited_environment(**environment),
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._rest = b""
        self._closed = False

    @property
    def gone(self) -> bool:
        """Whether it has ended, however that came, and everything it said was heard."""
        return self._closed

    @property
    def exit_code(self) -> int | None:
        """Once it is gone; a signal that killed it is negative."""
        return self._process.returncode

    def tell(self, message: Message) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it is gone; `hear` will tell
            self._stdin.write(message.model_dump_json().encode() + b"\n")
            self._stdin.flush()

    def hear(self, *, timeout_s: float) -> list[News]:
        """What it says within the time, at once when there is something."""
        if self._closed or not self._selector.select(timeout_s):
            return []
        chunk = os.read(self._stdout.fileno(), 1 << 20)
        if not chunk:
            self.close()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [News.model_validate_json(line) for line in lines]

    def close(self) -> None:
        """End of input is what it ends at, with all its ranks."""
        if self._closed:
            return
        self._closed = True
        self._selector.close()
        with contextlib.suppress(BrokenPipeError):  # it was gone before it read everything
            self._stdin.close()
        self._process.wait()
        self._stdout.close()

    @property
    def _stdin(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdin)

    @property
    def _stdout(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdout)
