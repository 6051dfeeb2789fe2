"""What a person, a terminal or a batch system ends is saved where asked for, and gone at once."""

import os
import pty
import signal
import time
from pathlib import Path

import pytest

from launcher import rundir
from tests.job import LAST_STEP, Command, Ended, Launcher, eventually, weights
from tests.killing import orphans
from tests.trouble import assert_nothing_lost, make_launcher, move, told, trouble

pytestmark = pytest.mark.integration


def test_a_rank_that_is_killed_takes_the_others_and_their_workers_along_within_a_second(
    tmp_path: Path,
) -> None:
    with make_launcher(tmp_path, data__loader={"num_workers": 2}, retries__node_loss=0) as launcher:
        command = launcher.start_run()
        launcher.reach(10)
        ranks = launcher.ranks()
        everyone = [*ranks, *(child for rank in ranks for child in rank.children(recursive=True))]
        assert len(everyone) >= 6
        ranks[1].kill()
        eventually(lambda: not set(everyone) & set(launcher.processes()), timeout_s=1.0)
        ended = command.wait()
        assert ended.exit_code == 13
        assert ended.error["message"] == "rank 1: killed by SIGKILL"
        assert "Traceback" not in ended.stderr
        assert orphans(launcher) == []


def test_a_launcher_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with make_launcher(tmp_path, data__loader={"num_workers": 2}) as launcher:
        command = launcher.start_run()
        launcher.reach(5)
        assert len(launcher.processes()) >= 8
        command.process.kill()
        eventually(lambda: not launcher.processes(), timeout_s=1.0)
        shown = launcher.start("show", "@last", "-o", "json").wait()
        assert shown.outcome["outcome"]["status"] == "lost"


def test_ctrl_c_saves_the_step_it_is_in_and_a_resume_goes_on_to_the_same_bits(
    stopped_run: tuple[Launcher, Ended], unbroken_run: Launcher, tmp_path: Path
) -> None:
    launcher, ended = stopped_run
    assert ended.exit_code == 20
    assert ended.outcome["status"] == "stopped"
    assert ended.outcome["error"] is None
    step = ended.outcome["step"]
    assert 10 <= step < LAST_STEP
    assert launcher.steps()[-1] == step
    assert ended.outcome["checkpoint"] == launcher.run_dir.path(rundir.checkpoint_name(step))
    assert orphans(launcher) == []
    with move(launcher, tmp_path) as copy:
        assert copy.resume().exit_code == 0
        assert weights(copy.run_dir) == weights(unbroken_run.run_dir)


def test_a_run_that_is_training_is_left_alone_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with make_launcher(tmp_path, model__args={"forward_s": 0.15}) as launcher:
        command = launcher.start_run()
        launcher.reach(1)
        second = launcher.resume()
        assert second.exit_code == 3
        run_id, pid = launcher.run_dir.run_id, command.process.pid
        assert told(second).startswith(f"{run_id} is being trained by process {pid} on ")
        stop = launcher.start("stop", run_id)
        ended = command.wait()
        assert ended.exit_code == 20
        assert launcher.steps()[-1] == ended.outcome["step"]
        assert stop.wait().exit_code == 0
        assert orphans(launcher) == []


def test_ctrl_c_twice_ends_at_once_and_leaves_nobody(tmp_path: Path) -> None:
    with make_launcher(
        tmp_path,
        data__loader={"num_workers": 2},
        model__args=trouble("hang"),  # so that the first one cannot be obeyed
    ) as launcher:
        command = launcher.start_run()
        launcher.reach(9)
        interrupt_twice(command)
        started = time.monotonic()
        ended = command.wait()
        assert ended.exit_code == 20
        assert ended.outcome["status"] == "stopped"
        assert time.monotonic() - started < 5
        assert_nothing_lost(launcher)


def interrupt_twice(command: Command) -> None:
    command.interrupt()
    eventually(lambda: "stopping after this step" in command.stderr)
    command.interrupt()


def test_a_terminal_that_is_closed_is_a_wish_to_stop_with_a_checkpoint(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    with make_launcher(tmp_path, model__args={"forward_s": 0.1}) as launcher:
        command = launcher.start("run", str(launcher.spec), terminal=slave)
        os.close(slave)
        launcher.reach(3)
        os.close(master)
        for _ in range(2):  # by the kernel, and by the shell
            command.process.send_signal(signal.SIGHUP)
        assert command.wait().exit_code == 20
        assert launcher.steps()[-1] == launcher.rows()[-1]["step"] < LAST_STEP


@pytest.mark.parametrize("world_size", [1, 2])
def test_ctrl_c_before_the_first_step_is_a_stop_too(world_size: int, tmp_path: Path) -> None:
    with make_launcher(tmp_path, resources__world_size=world_size) as launcher:
        command = launcher.start_run()
        eventually(lambda: launcher.events("attempt"))
        command.interrupt()
        ended = command.wait()
        assert ended.exit_code == 20
        assert ended.outcome["status"] == "stopped"
        assert ended.outcome["step"] <= 2  # ranks agree on a stop one step after the wish


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_signal_to_every_process_at_once_is_a_stop_with_a_checkpoint(
    world_size: int, tmp_path: Path
) -> None:
    with make_launcher(
        tmp_path, resources__world_size=world_size, data__loader={"num_workers": 1}
    ) as launcher:
        command = launcher.start_run()
        launcher.reach(5)
        for process in launcher.processes():  # as a batch system does at its time limit
            process.terminate()
        ended = command.wait()
        assert ended.exit_code == 20, ended.stderr
        assert launcher.steps()[-1] == ended.outcome["step"]
        assert orphans(launcher) == []
