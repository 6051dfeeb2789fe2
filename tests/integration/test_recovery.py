"""A run that is killed, stopped or moved comes to the end it would have come to anyway."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import rundir
from tests.job import (
    GLOBAL_BATCH_SIZE,
    LAST_STEP,
    Launcher,
    recorded_steps,
    reproducible,
    weights,
    write_job,
)
from tests.killing import Kill, differences, orphans, survive
from tests.ordering import promised_steps

pytestmark = pytest.mark.integration

MIDDLE = 17
"""A step in the middle of the second epoch, and between two checkpoints."""
ONLY_HALF = ("--set", f"train.max_steps={MIDDLE}")


def make_launcher(folder: Path, *, world_size: int) -> Launcher:
    spec = write_job(
        folder,
        model__args={"forward_s": 0.01, "ballast_mb": 4},
        train__global_batch_size=GLOBAL_BATCH_SIZE if world_size < 3 else 36,
        resources__world_size=world_size,
    )
    return Launcher(spec)


def train(launcher: Launcher, *arguments: str) -> Launcher:
    ended = launcher.run(*arguments)
    assert ended.exit_code == 0, ended.stderr
    return launcher


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Two ranks, all epochs."""
    with make_launcher(tmp_path_factory.mktemp("unbroken"), world_size=2) as launcher:
        yield train(launcher)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Two ranks, ended in the middle of an epoch."""
    with make_launcher(tmp_path_factory.mktemp("halfway"), world_size=2) as launcher:
        yield train(launcher, *ONLY_HALF)


def go_on_elsewhere(halfway: Launcher, folder: Path, *changes: str) -> Launcher:
    """Resumes a copy of a run, with changes, to the end of its epochs."""
    shutil.copytree(halfway.folder, folder, dirs_exist_ok=True)
    spec = folder / "job.yaml"
    spec.write_text(spec.read_text().replace(str(halfway.folder), str(folder)))
    for run_dir in Launcher(spec).run_dirs:  # what the run itself knows of where it is
        for name in (rundir.SPEC, rundir.RECORD):
            file = run_dir.local(name)
            file.write_text(file.read_text().replace(str(halfway.folder), str(folder)))
    launcher = Launcher(spec)
    arguments = [
        word for change in ("train.max_steps=null", *changes) for word in ("--set", change)
    ]
    with launcher:
        ended = launcher.resume(*arguments)
    assert ended.exit_code == 0, ended.stderr
    assert ended.outcome["step"] == LAST_STEP
    return launcher


def assert_every_sample_once(launcher: Launcher, *, batch: int = GLOBAL_BATCH_SIZE) -> None:
    """Step by step, the samples that entered are those of the epoch's order."""
    expected = promised_steps(batch=batch)
    steps = recorded_steps(launcher.folder)
    taken = [
        [index for rank in sorted(steps[step]) for index in steps[step][rank]]
        for step in sorted(steps)
    ]
    assert sorted(steps) == list(range(1, len(expected) + 1))
    assert taken == expected


def trained_rows(launcher: Launcher) -> list[dict[str, Any]]:
    """Without evaluations: half a run has one more, at its end."""
    rows = reproducible(launcher.rows())
    return [{k: v for k, v in row.items() if not k.startswith("eval_")} for row in rows]


def steps_of(launcher: Launcher) -> list[int]:
    return [row["step"] for row in launcher.rows()]


@pytest.mark.parametrize(
    "kill",
    [
        Kill("rank 0", "save", 3),
        Kill("rank 1", "training", 10),
        Kill("launcher", "save", 3, extra_s=0.01),
        Kill("all", "save", 4, extra_s=0.02),
    ],
    ids=str,
)
def test_a_kill_changes_no_weight_no_row_and_no_sample(
    kill: Kill, unbroken: Launcher, tmp_path: Path
) -> None:
    with make_launcher(tmp_path, world_size=2) as launcher:
        story = survive(launcher, [kill])
        assert story.end.exit_code == 0, story.end.stderr
        assert story.struck[0].startswith(kill.victim)
        by_itself = kill.victim not in ("launcher", "all")
        assert story.launches == (1 if by_itself else 2)
        assert differences(launcher, unbroken) == []


def test_three_kills_in_a_row_leave_strictly_increasing_steps(
    unbroken: Launcher, tmp_path: Path
) -> None:
    kills = [
        Kill("all", "training", 9),
        Kill("rank 1", "training", 3),
        Kill("zygote", "attempt", 1),
    ]
    with make_launcher(tmp_path, world_size=2) as launcher:
        story = survive(launcher, kills)
        assert story.end.exit_code == 0, story.end.stderr
        assert story.end.outcome["attempts"] == 4
        assert steps_of(launcher) == list(range(1, LAST_STEP + 1))
        assert differences(launcher, unbroken) == []


def test_a_resume_with_other_loader_workers_changes_nothing(
    halfway: Launcher, unbroken: Launcher, tmp_path: Path
) -> None:
    launcher = go_on_elsewhere(halfway, tmp_path, "data.loader.num_workers=2")
    assert weights(launcher.run_dir) == weights(unbroken.run_dir)
    assert trained_rows(launcher) == trained_rows(unbroken)
    assert_every_sample_once(launcher)
    assert orphans(launcher) == []


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_resume_with_another_world_size_repeats_and_skips_no_sample(
    world_size: int, halfway: Launcher, tmp_path: Path
) -> None:
    change = f"resources.world_size={world_size}"
    launcher = go_on_elsewhere(halfway, tmp_path, change)
    assert_every_sample_once(launcher)
    steps = recorded_steps(launcher.folder)
    assert len(steps[MIDDLE]) == 2
    assert len(steps[MIDDLE + 1]) == world_size
    assert steps_of(launcher) == list(range(1, LAST_STEP + 1))


def test_a_run_of_one_rank_goes_on_with_two(tmp_path: Path) -> None:
    with make_launcher(tmp_path / "one", world_size=1) as alone:
        train(alone, *ONLY_HALF)
    launcher = go_on_elsewhere(alone, tmp_path / "two", "resources.world_size=2")
    assert_every_sample_once(launcher)


def test_three_ranks_resume_to_the_same_bits_as_without_a_break(tmp_path: Path) -> None:
    with (
        make_launcher(tmp_path / "unbroken", world_size=3) as unbroken,
        make_launcher(tmp_path / "resumed", world_size=3) as resumed,
    ):
        train(unbroken)
        train(resumed, *ONLY_HALF)
        assert resumed.resume("--set", "train.max_steps=null").exit_code == 0
        assert weights(resumed.run_dir) == weights(unbroken.run_dir)
        assert trained_rows(resumed) == trained_rows(unbroken)
        assert_every_sample_once(resumed, batch=36)


def test_a_finished_run_says_so_and_goes_on_when_it_gets_a_later_end(
    unbroken: Launcher, tmp_path: Path
) -> None:
    before = unbroken.rows()
    for changes in ((), ("--set", "train.max_epochs=2")):
        again = unbroken.resume(*changes)
        assert again.exit_code == 0
        assert "is finished, at step 30" in again.stderr
    assert unbroken.rows() == before
    shutil.copytree(unbroken.folder, tmp_path, dirs_exist_ok=True)
    with Launcher(tmp_path / "job.yaml") as launcher:
        ended = launcher.resume("--set", "train.max_epochs=4")
        assert ended.outcome["step"] == LAST_STEP + 10
        assert reproducible(launcher.rows())[:LAST_STEP] == reproducible(before)
