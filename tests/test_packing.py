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


def link(folder: Path, name: str, target: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize(
    "target",
    [
        "../home/.ssh/config",
        "../home/.aws/credentials",
        "../home/.docker/config.json",
        "../home/.config/gcloud/credentials.db",
        "../home/keys/deploy.pem",
        "../home/.launcher/secrets/WANDB_API_KEY",
        ".env",
        "sub/.env.local",
        ".git/config",
        "env/lib/a.py",
        "sub/ignored/a.csv",
        "to-env",
        "to-home/.ssh/config",
        "sub/../.env",
    ],
)
def test_a_link_to_what_never_goes_does_not_go_by_another_name(tmp_path: Path, target: str) -> None:
    write(
        tmp_path / "home",
        *(".ssh/config", ".aws/credentials", "keys/deploy.pem"),
        *(".docker/config.json", ".config/gcloud/credentials.db"),
        *(".launcher/secrets/WANDB_API_KEY", "plain"),
    )
    job = tmp_path / "job"
    write(job, ".env", "sub/.env.local", ".git/config", "env/pyvenv.cfg", "env/lib/a.py")
    write(job, "sub/ignored/a.csv")
    write(job / "sub", launcherignore="/ignored/\n")
    link(job, "to-env", ".env")
    link(job, "to-home", "../home")
    link(job, "data/innocent.txt", f"../{target}")
    assert packed(job) == ["sub/.launcherignore"]


def test_a_link_to_another_file_goes_as_what_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "words.txt")
    (tmp_path / "elsewhere/words.txt").write_text("some words")
    job = tmp_path / "job"
    write(job, "sub/net.py", "sub/deep/net.py")
    link(job, "a.txt", "../elsewhere/words.txt")
    link(job, "b.txt", "a.txt")
    link(job, "net.py", str(job / "sub/deep/net.py"))
    sizes = {file.name: file.size_bytes for file in packing.upload_list(job)}
    assert sizes == {"a.txt": 10, "b.txt": 10, "net.py": 0, "sub/deep/net.py": 0, "sub/net.py": 0}


def test_links_to_nothing_and_to_themselves_do_not_go(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    link(tmp_path, "gone", "nowhere")
    link(tmp_path, "round", "round")
    assert packed(tmp_path) == ["a.py"]


def test_a_folder_below_a_link_is_judged_by_its_place(tmp_path: Path) -> None:
    """The job's folder is reached by a link: what lies in it lies inside."""
    job = tmp_path / "real"
    write(job, "a.csv", "b.py", gitignore="*.csv\n")
    link(job, "a.txt", "a.csv")
    link(tmp_path, "job", "real")
    assert packed(tmp_path / "job") == [".gitignore", "b.py"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing-here cannot be sent: No such file"):
        packing.upload_list(tmp_path / "nothing-here")


@pytest.mark.parametrize(
    "content",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n",
        '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE"}',
    ],
)
def test_a_private_key_stays_here_whatever_its_name(tmp_path: Path, content: str) -> None:
    write(tmp_path, "model.py")
    (tmp_path / "mykey").write_text(content)
    assert packed(tmp_path) == ["model.py"]
