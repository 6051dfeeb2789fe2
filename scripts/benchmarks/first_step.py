"""From the command to the first optimizer step, on this host."""

from pathlib import Path

from benchmarks.processes import bare_run, launcher_run, train
from benchmarks.report import Row


def measure(repeat: int, scratch: Path) -> list[Row]:
    """Two ranks train the model of char_gpt.yaml; both sides run to the end of step 3, in turns.

    The time runs from before the process is started until the slower rank is past its first
    optimizer step, noted by the optimizer itself. One turn before the first is not counted, so
    files are in the page cache for both. The launcher writes its run directory as always; W&B is
    off, as the peer has nothing like it.
    """
    ours: list[float] = []
    peer: list[float] = []
    for turn in range(repeat + 1):
        run = train(launcher_run("gpt", scratch, train__max_steps=3), scratch / f"ours-{turn}")
        bare = train(bare_run("gpt", steps=3), scratch / f"peer-{turn}")
        if turn:
            ours.append(run.first_step_s)
            peer.append(bare.first_step_s)
    return [
        Row(
            name="first-step",
            what="command to first optimizer step, 2 ranks",
            unit="s",
            ours=tuple(ours),
            peer=tuple(peer),
            peer_name="torchrun",
            goal=0.7,
        )
    ]
