"""Starts two ranks twice by the method it is told, and prints when they had met. See start_methods.

torch is imported by functions: which process imports it, and when, is what is compared.
"""

import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

RANKS = 2


def meet(rank: int, port: int, note: str) -> None:
    """One rank: joins the group, sums a number over it, and notes the time."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    value = torch.ones(1)
    dist.all_reduce(value)
    assert value.item() == RANKS
    Path(f"{note}.{rank}").write_text(str(time.time()))
    dist.destroy_process_group()


def starter(method: str) -> Callable[[int, str], None]:
    """What starts all ranks by the method and waits for them."""
    if method == "forkserver, torch preloaded":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed"])

        def start_preloaded(port: int, note: str) -> None:
            ranks = [context.Process(target=meet, args=(r, port, note)) for r in range(RANKS)]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()

        return start_preloaded

    import torch.multiprocessing

    def start(port: int, note: str) -> None:
        torch.multiprocessing.start_processes(
            meet, args=(port, note), nprocs=RANKS, start_method=method
        )

    return start


def met(start: Callable[[int, str], None], note: str) -> float:
    """When the slower rank had its sum."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start(port, note)
    return max(float(Path(f"{note}.{rank}").read_text()) for rank in range(RANKS))


def main(method: str, folder: str) -> None:
    start = starter(method)
    first = met(start, f"{folder}/first")
    asked_again = time.time()
    again = met(start, f"{folder}/again")
    print(json.dumps({"met": first, "asked again": asked_again, "met again": again}))


if __name__ == "__main__":
    main(*sys.argv[1:])
