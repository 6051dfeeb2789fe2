"""The process in which `doctor` tries torch: two ranks of this host add numbers, as those of a run.

Says each finding as a line of JSON as soon as it has it; what they mean is told in `verdicts`.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing torch is what is timed here
    from launcher.distributed import Rendezvous

_TIMEOUT_S = 30.0


def main() -> None:
    """Ends like a rank: at once, as leaving a process group can hang when the peer is gone."""
    status = 1
    try:
        _try_torch()
        status = 0
    except Exception:  # noqa: BLE001  # a rank reports its death
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def _try_torch() -> None:
    """CUDA comes last, because a process that has started it cannot fork."""
    start = time.perf_counter()
    import torch

    import_s = round(time.perf_counter() - start, 2)
    _say(version=torch.__version__, cuda=torch.version.cuda or "", import_s=import_s)
    _say(total=_sum_over_two_ranks())
    _say(cuda_devices=torch.cuda.device_count())


def _sum_over_two_ranks() -> float:
    """1 from the one rank and 2 from the other; the other stays until the sum is known."""
    from launcher.distributed import Rendezvous, die_with_parent

    listener = socket.create_server(("127.0.0.1", 0))
    address, port = listener.getsockname()
    peer = os.fork()
    if peer == 0:
        try:
            die_with_parent()
            listener.close()
            _add(rank=1, meeting=Rendezvous(address, port, None))
            signal.pause()
        finally:
            os._exit(1)
    try:
        return _add(rank=0, meeting=Rendezvous(address, port, listener.detach()))
    finally:
        os.kill(peer, signal.SIGKILL)
        os.waitpid(peer, 0)


def _add(*, rank: int, meeting: "Rendezvous") -> float:
    import torch

    from launcher.distributed import Rank
    from launcher.doctor.adding import add

    place = Rank(rank, 2, rank, 2, torch.device("cpu"))
    return add(place, meeting, backend="gloo", timeout_s=_TIMEOUT_S).total


def _say(**finding: Any) -> None:
    sys.stdout.write(json.dumps(finding) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
