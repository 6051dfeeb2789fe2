"""What of a job's folder goes to a cluster, and what never does."""

from pathlib import Path

import pytest

from launcher import packing
from launcher.errors import SpecError


def write(folder: Path, *names: str, **texts: str) -> None:
    """Empty files, and ignore files of the root by their names without the dot."""
    files = dict.fromkeys(names, "") | {f".{name}": text for name, text in texts.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def packed(folder: Path) -> list[str]:
    return [file.name for file in packing.upload_list(folder)]


def test_the_code_goes_sorted_by_name(tmp_path: Path) -> None:
    write(tmp_path, "model.py", "job.yaml", "sub/net.py")
    assert packed(tmp_path) == ["job.yaml", "model.py", "sub/net.py"]


def test_history_environments_runs_caches_and_keys_never_go(tmp_path: Path) -> None:
    write(
        tmp_path,
        ".git/config",
        "env/pyvenv.cfg",
        "env/lib/a.py",
        "runs/digits/plan.json",
        "runs/digits/spec.yaml",
        "sub/__pycache__/net.pyc",
        ".env",
        "deploy.pem",
        "sub/id_rsa",
        launcherignore="!.env\n!*.pem\n",
    )
    assert packed(tmp_path) == [".launcherignore"]


def test_ignore_files_count_from_their_folder_and_the_deepest_decides(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.csv",
        "data/b.txt",
        "sub/data/c.txt",
        "sub/d.csv",
        "sub/e.bin",
        gitignore="*.csv\n/data/\n",
    )
    write(tmp_path / "sub", launcherignore="!d.csv\n*.bin\n")
    assert packed(tmp_path) == [
        ".gitignore",
        "sub/.launcherignore",
        "sub/d.csv",
        "sub/data/c.txt",
    ]


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    for number in range(12):
        with (tmp_path / f"{number:02}.bin").open("wb") as file:
            file.truncate((number + 1) * (10 << 20))
    with pytest.raises(SpecError) as caught:
        packing.upload_list(tmp_path)
    first, *shown = str(caught.value).splitlines()
    assert "has 12 files of 780.0 MiB to send" in first
    assert shown == [f"  {(n + 1) * 10:.1f} MiB  {n:02}.bin" for n in range(11, 1, -1)]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    (tmp_path / "root").symlink_to("/")
    assert packed(tmp_path) == ["a.py"]
