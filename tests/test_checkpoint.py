"""A checkpoint counts when its manifest is there and every byte of it is as it was written."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher import checkpoint, rundir
from launcher.rundir import RunDir

FILES = {"model.safetensors": b"weights" * 100, "state.json": b'{"step": 1}', "empty": b""}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return rundir.create(str(tmp_path / "runs with space"), "digits-20261122-134501-3fa9")


def write(run_dir: RunDir, step: int, *, commit: bool = True) -> Path:
    name = rundir.checkpoint_name(step)
    folder = checkpoint.clear(run_dir, name)
    for file, content in FILES.items():
        (folder / file).write_bytes(content)
    if commit:
        checkpoint.commit(run_dir, name)
    return folder


def flip_bit(path: Path, *, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_a_run_without_checkpoints_starts_from_nothing(run_dir: RunDir) -> None:
    assert checkpoint.newest_valid(run_dir) == checkpoint.Choice(name="", passed_over=())


def test_the_newest_is_taken(run_dir: RunDir) -> None:
    for step in (2, 10, 9):
        write(run_dir, step)
    choice = checkpoint.newest_valid(run_dir)
    assert choice == checkpoint.Choice(name="checkpoints/step-00000010", passed_over=())
    assert checkpoint.committed_steps(run_dir) == [2, 9, 10]


def test_a_folder_without_a_manifest_does_not_count(run_dir: RunDir) -> None:
    write(run_dir, 1)
    write(run_dir, 2, commit=False)
    choice = checkpoint.newest_valid(run_dir)
    assert choice == checkpoint.Choice(name="checkpoints/step-00000001", passed_over=())


def test_a_flipped_bit_is_noticed_and_the_one_before_it_taken(run_dir: RunDir) -> None:
    write(run_dir, 1)
    flip_bit(write(run_dir, 2) / "model.safetensors", byte=350)
    choice = checkpoint.newest_valid(run_dir)
    assert choice.name == "checkpoints/step-00000001"
    assert choice.passed_over == (
        "checkpoints/step-00000002 is damaged (model.safetensors does not match its hash)",
    )


def test_a_truncated_file_is_noticed(run_dir: RunDir) -> None:
    file = write(run_dir, 1) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert checkpoint.find_damage(run_dir, "checkpoints/step-00000001") == (
        "model.safetensors has 699 bytes, not 700"
    )


def test_a_missing_file_is_noticed(run_dir: RunDir) -> None:
    (write(run_dir, 1) / "empty").unlink()
    damage = checkpoint.find_damage(run_dir, "checkpoints/step-00000001")
    assert damage == "empty is not there"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(byte=st.integers(0), bit=st.integers(0, 7))
def test_no_flipped_bit_in_a_manifest_breaks_the_search_for_a_checkpoint(
    run_dir: RunDir, byte: int, bit: int
) -> None:
    write(run_dir, 1)
    manifest = write(run_dir, 2) / rundir.MANIFEST
    content = bytearray(manifest.read_bytes())
    content[byte % len(content)] ^= 1 << bit
    manifest.write_bytes(content)
    choice = checkpoint.newest_valid(run_dir)
    assert choice.name in {"checkpoints/step-00000001", "checkpoints/step-00000002"}
    assert (choice.name == "checkpoints/step-00000001") == bool(choice.passed_over)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"files": []}', b'{"files": {}}', b'{"files": {"empty": {}}}']
)
def test_a_manifest_that_is_none_is_noticed(run_dir: RunDir, content: bytes) -> None:
    (write(run_dir, 1) / rundir.MANIFEST).write_bytes(content)
    assert checkpoint.find_damage(run_dir, "checkpoints/step-00000001")


def test_writing_a_step_again_replaces_what_was_half_written(run_dir: RunDir) -> None:
    (write(run_dir, 1, commit=False) / "of an earlier try").write_bytes(b"")
    folder = write(run_dir, 1)
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, rundir.MANIFEST])
    assert not checkpoint.find_damage(run_dir, "checkpoints/step-00000001")


def test_pruning_keeps_the_newest_and_never_touches_what_is_being_written(run_dir: RunDir) -> None:
    for step in (1, 2, 3):
        write(run_dir, step)
    unfinished = write(run_dir, 4, commit=False)
    gone = checkpoint.prune(run_dir, keep_last=2, newest=3)
    assert gone == ["checkpoints/step-00000001"]
    assert checkpoint.committed_steps(run_dir) == [2, 3]
    assert run_dir.names(rundir.CHECKPOINTS) == ["step-00000002", "step-00000003", unfinished.name]


def test_a_damaged_checkpoint_of_a_later_step_is_no_reason_to_prune_a_good_one(
    run_dir: RunDir,
) -> None:
    write(run_dir, 1)
    flip_bit(write(run_dir, 9) / "model.safetensors", byte=0)
    write(run_dir, 2)  # the run went on from step 1
    checkpoint.prune(run_dir, keep_last=1, newest=2)
    assert checkpoint.newest_valid(run_dir).name == "checkpoints/step-00000002"


def test_what_a_killed_save_left_is_removed_and_nothing_else(run_dir: RunDir) -> None:
    write(run_dir, 1)
    write(run_dir, 2, commit=False)
    checkpoint.remove_unfinished(run_dir)
    assert run_dir.names(rundir.CHECKPOINTS) == ["step-00000001"]
