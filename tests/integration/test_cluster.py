"""From a laptop to a Ray cluster of separate hosts: submit, watch, stop, lose a host, go on."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher import checkpoint, rundir
from launcher.rundir import RunDir
from tests import hosts, s3
from tests.hosts import Host
from tests.job import (
    LAST_STEP,
    Launcher,
    eventually,
    reproducible,
    weights,
    write_job,
)
from tests.ordering import promised_steps
from tests.s3 import Server

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing() or "all is here"),
    pytest.mark.timeout(600),
]

SECRET = "tmyyqsbwgcdnzrlx"


@dataclass
class Lab:
    """A cluster of three hosts with a core each, and a laptop beside it."""

    head: Host
    one: Host
    two: Host
    laptop: Host
    token: Path
    bucket: Server
    """Storage that every host reaches over the network."""
    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "runs"

    def join(self, host: Host, *, cpus: int = 1) -> None:
        done = host.launcher(
            *("cluster", "join", f"{self.head.address}:6379", "--address", host.address),
            *("--token-file", str(self.token), "--cpus", str(cpus)),
            **self.bucket.environment,
        )
        assert done.returncode == 0, done.stderr

    def complete(self) -> None:
        """Lets every worker host join that is not there."""
        for host in (self.one, self.two):
            if not host.processes():
                self.join(host)

    def workers(self, run_dir: RunDir) -> tuple[Host, Host]:
        """The one on which the run trains beside the head, and the other one."""
        (before,) = placed(run_dir)
        mine, other = sorted((self.one, self.two), key=lambda host: host.address not in before)
        assert mine.address in before
        return mine, other

    def drain(self, host: Host) -> None:
        """Says to Ray, as a cloud does, that the host will be taken away in a minute."""
        code = (
            "import ray; ray.init('auto'); "
            "print(*[n['NodeID'] for n in ray.nodes() if n['Alive']"
            f" and n['NodeManagerAddress'] == {host.address!r}])"
        )
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        (node_id,) = self.head.run(sys.executable, "-c", code, **token).stdout.split()[-1:]
        done = self.head.run(
            *("ray", "drain-node", "--address", f"{self.head.address}:6379"),
            *("--node-id", node_id, "--deadline-remaining-seconds", "60"),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"),
            **token,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def job(self, name: str, **changes: Any) -> Path:
        """A tiny job in a folder of its own."""
        return write_job(self.folder / name, **changes)

    def submit(self, spec: Path, *arguments: str) -> RunDir:
        """The directory of the run that was submitted."""
        done = self.laptop.launcher("submit", str(spec), "--cluster", "lab", *arguments)
        assert done.returncode == 0, done.stderr
        return RunDir(str(self.storage / done.stdout.splitlines()[0]))

    def ask(self, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        """What a command says on the laptop about the cluster, as JSON."""
        done = self.laptop.launcher(*arguments, "--cluster", "lab", "-o", "json")
        assert done.returncode == exit_code, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def wait(self, run_dir: RunDir, *, exit_code: int = 0) -> dict[str, Any]:
        return self.ask("wait", run_dir.run_id, exit_code=exit_code)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with (
        little_room(folder / "full"),
        hosts.hosts("head", "one", "two", "laptop", folder=folder) as (head, one, two, laptop),
        s3.server(folder / "s3.log", address=hosts.OUTSIDE) as bucket,
    ):
        up = head.launcher(
            *("cluster", "up", "--address", head.address, "--cpus", "1"),
            WANDB_API_KEY=SECRET,
            **bucket.environment,
        )
        assert up.returncode == 0, up.stderr
        lab = Lab(head, one, two, laptop, head.home / ".ray" / "auth_token", bucket, folder)
        lab.join(one)
        named = laptop.launcher(
            *("cluster", "add", "lab", f"http://{head.address}:8265"),
            *("--token-file", str(lab.token), "--storage", str(lab.storage)),
        )
        assert named.returncode == 0, named.stderr
        yield lab


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """The same job on this machine, by the local engine."""
    spec = write_job(tmp_path_factory.mktemp("local"))
    with Launcher(spec) as launcher:
        assert launcher.run().exit_code == 0
        yield launcher


@contextlib.contextmanager
def little_room(folder: Path) -> Iterator[None]:
    """A file system of 5 MiB that hosts made after it share."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def rows(run_dir: RunDir) -> list[dict[str, Any]]:
    return list(run_dir.read_lines(rundir.METRICS))


def events(run_dir: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event for event in run_dir.read_lines(rundir.EVENTS) if event["event"] == kind]


def reach(run_dir: RunDir, step: int) -> None:
    eventually(
        lambda: any(row["step"] >= step for row in rows(run_dir)), timeout_s=90, what=f"step {step}"
    )


def placed(run_dir: RunDir) -> list[list[str]]:
    """The hosts of each attempt."""
    return [[host["host"] for host in event["hosts"]] for event in events(run_dir, "placed")]


def assert_same_as_local(run_dir: RunDir, unbroken: Launcher) -> None:
    assert weights(run_dir) == weights(unbroken.run_dir)
    assert reproducible(rows(run_dir)) == reproducible(unbroken.rows())


def assert_every_sample_once(folder: Path) -> None:
    """Each step took its positions of the epoch's order, also where another number of ranks did it
    again after a restart."""
    expected = promised_steps()
    taken: dict[int, set[tuple[int, ...]]] = {}
    for line in (folder / "steps.jsonl").read_text().splitlines():
        record = json.loads(line)
        taken.setdefault(record["step"], set()).add(tuple(record["indices"]))
    assert sorted(taken) == list(range(1, len(expected) + 1))
    for step, batch in enumerate(expected, start=1):
        half = -(-len(batch) // 2)
        alone, halves = {tuple(batch)}, {tuple(batch[:half]), tuple(batch[half:])}
        assert taken[step] in (alone, halves, alone | halves), step


def test_a_submitted_job_has_the_weights_of_a_local_one(lab: Lab, unbroken: Launcher) -> None:
    run_dir = lab.submit(lab.job("same"))
    outcome = lab.wait(run_dir)
    assert (outcome["status"], outcome["step"]) == ("succeeded", LAST_STEP)
    assert placed(run_dir) == [[lab.head.address, lab.one.address]]
    assert_same_as_local(run_dir, unbroken)
    listed = lab.ask("ls")["runs"]
    assert run_dir.run_id in [run["run_id"] for run in listed]


def test_deepspeed_splits_a_model_over_two_hosts(lab: Lab, tmp_path: Path) -> None:
    split = {"strategy": {"name": "deepspeed", "zero_stage": 3}, "train__max_epochs": 1}
    run_dir = lab.submit(lab.job("split", **split))
    with Launcher(write_job(tmp_path, **split)) as here:
        assert here.run().exit_code == 0
        lab.wait(run_dir)
        assert placed(run_dir) == [[lab.head.address, lab.one.address]]
        assert_same_as_local(run_dir, here)


def test_a_healthy_cluster_passes_the_doctor_and_keeps_nothing_of_the_visit(lab: Lab) -> None:
    lab.storage.mkdir(exist_ok=True)
    before = sorted(lab.storage.iterdir())
    document = lab.ask("doctor", str(lab.job("visit", secrets=["HOME"])))
    assert document["ok"]
    assert [check for check in document["checks"] if check["status"] != "ok"] == []
    said = {check["name"]: check["finding"] for check in document["checks"]}
    assert said["hosts"] == f"2 hosts answer: {lab.head.address} (head), {lab.one.address}"
    assert said["room"] == "2 ranks of 1 CPU fit; free on both hosts: 1 CPU"
    assert said["network"].startswith("2 hosts reach each other: 2 connections")
    assert said["gloo"].startswith("2 hosts, a rank each, met in ")
    assert said.keys() >= {"token", "python", "ray", "torch", "launcher", "storage", "secrets"}
    assert sorted(lab.storage.iterdir()) == before


def test_the_doctor_names_the_host_that_has_another_storage_and_a_spec_too_large(lab: Lab) -> None:
    lab.storage.mkdir(exist_ok=True)
    big = lab.job("big", resources__world_size=16)
    assert lab.one.run("mount", "-t", "tmpfs", "none", str(lab.storage)).returncode == 0
    try:
        done = lab.laptop.launcher("doctor", str(big), "--cluster", "lab")
    finally:
        assert lab.one.run("umount", str(lab.storage)).returncode == 0
    assert done.returncode == 3, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert failed == [
        "FAIL room: no room for 16 ranks of 1 CPU, even on an idle cluster; there is on both "
        "hosts: 1 CPU -> let more hosts join, or set resources.world_size to 2",
        f"FAIL storage: {lab.one.address}: does not see in {lab.storage} what the head wrote there "
        f"-> let all hosts share {lab.storage} and write there, or name another one with --storage",
    ]


def test_a_worker_host_that_is_cut_off_is_given_up_and_the_run_goes_on(
    lab: Lab, unbroken: Launcher
) -> None:
    lab.complete()
    run_dir = lab.submit(lab.job("cut", model__args={"forward_s": 0.2}))
    reach(run_dir, 6)
    worker, _ = lab.workers(run_dir)
    worker.cut_off()
    try:
        outcome = lab.wait(run_dir)
    finally:
        worker.kill()
        worker.reconnect()
    assert outcome["attempts"] == 2
    assert worker.address not in placed(run_dir)[-1]
    assert_same_as_local(run_dir, unbroken)


def test_a_host_that_is_to_be_taken_away_is_left_after_a_save_and_one_that_dies_is_replaced(
    lab: Lab, unbroken: Launcher
) -> None:
    lab.complete()
    run_dir = lab.submit(lab.job("moved", model__args={"forward_s": 0.3}))
    reach(run_dir, 6)
    worker, other = lab.workers(run_dir)
    lab.drain(worker)
    eventually(lambda: len(events(run_dir, "training")) == 2, timeout_s=60, what="another attempt")
    assert events(run_dir, "failure") == []
    (moving,) = events(run_dir, "moving")
    assert moving["reason"] == f"Ray is about to take away {worker.address}"
    saved_at = events(run_dir, "training")[1]["step"]
    assert events(run_dir, "attempt")[1]["checkpoint"] == rundir.checkpoint_name(saved_at)
    assert placed(run_dir)[-1] == [lab.head.address, other.address]

    reach(run_dir, saved_at + 2)
    worker.kill()
    other.kill()
    lab.join(worker)
    outcome = lab.wait(run_dir)
    assert outcome["attempts"] == 3
    (failure,) = events(run_dir, "failure")
    assert failure["kind"] == "lost"
    assert failure["message"] == f"rank 1: host {other.address} was lost"
    assert placed(run_dir)[-1] == [lab.head.address, worker.address]
    assert_same_as_local(run_dir, unbroken)


def test_a_bucket_is_storage_for_hosts_that_share_no_folder(
    lab: Lab, unbroken: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in lab.bucket.environment.items():
        monkeypatch.setenv(name, value)  # also for the laptop
    for worker in (lab.one, lab.two):
        worker.kill()
    lab.join(lab.two, cpus=2)
    job = lab.job("bucket", model__args={"forward_s": 0.3})
    done = lab.laptop.launcher(
        "submit", str(job), "--cluster", "lab", "--storage", lab.bucket.storage
    )
    assert done.returncode == 0, done.stderr
    run_dir = RunDir(f"{lab.bucket.storage}/{done.stdout.splitlines()[0]}")
    eventually(lambda: checkpoint.committed_steps(run_dir), timeout_s=90, what="a checkpoint there")
    assert placed(run_dir) == [[lab.two.address]]
    lab.two.kill()
    lab.join(lab.one)
    waited = lab.laptop.launcher("wait", run_dir.url, "-o", "json")
    assert waited.returncode == 0, waited.stderr
    assert json.loads(waited.stdout)["attempts"] == 2
    assert placed(run_dir)[1:] == [[lab.head.address, lab.one.address]]
    assert_same_as_local(run_dir, unbroken)
    assert run_dir.names("logs/attempt-0002") == ["rank-00000.log", "rank-00001.log"]
    shown = lab.laptop.launcher("show", run_dir.run_id, "--storage", lab.bucket.storage)
    assert "succeeded at step 30" in shown.stdout
    lab.complete()


def test_a_run_that_was_stopped_and_one_whose_driver_was_killed_go_on_with_their_own_code(
    lab: Lab, unbroken: Launcher
) -> None:
    spec = lab.job("driver", model__args={"forward_s": 0.3})
    run_dir = lab.submit(spec)
    reach(run_dir, 6)
    spec.with_name("tiny.py").write_text("raise SystemExit('other code')")
    stopped = lab.ask("stop", run_dir.run_id)
    assert (stopped["status"], stopped["exit_code"]) == ("stopped", 20)
    assert stopped["checkpoint"].endswith(f"{stopped['step']:08d}")

    resume = ("resume", run_dir.run_id, "--cluster", "lab")
    resuming = lab.laptop.start(sys.executable, "-m", "launcher", *resume)
    reach(run_dir, stopped["step"] + 6)
    for process in lab.head.processes():
        command = process.cmdline()
        if run_dir.run_id in " ".join(command) and "launcher" in command:
            process.kill()
    resuming.communicate(timeout=60)
    assert resuming.returncode == 13
    assert lab.wait(run_dir, exit_code=13)["status"] == "lost"

    done = lab.laptop.launcher(*resume, "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["attempts"] == 3
    assert_same_as_local(run_dir, unbroken)


def test_an_elastic_run_grows_and_shrinks_with_its_cluster_and_repeats_no_sample(lab: Lab) -> None:
    for worker in (lab.one, lab.two):
        worker.kill()
    job = lab.job(
        "elastic",
        model__args={"forward_s": 0.8},
        resources__world_size=[1, 2],
    )
    run_dir = lab.submit(job)
    reach(run_dir, 3)
    lab.join(lab.one)
    eventually(lambda: len(placed(run_dir)) == 2, timeout_s=60)
    reach(run_dir, rows(run_dir)[-1]["step"] + 4)
    lab.one.kill()
    outcome = lab.wait(run_dir)
    assert outcome["step"] == LAST_STEP
    assert [len(ranks) for ranks in placed(run_dir)] == [1, 2, 1]
    assert [event["kind"] for event in events(run_dir, "failure")] == ["lost"]
    assert_every_sample_once(job.parent)


def test_a_run_for_which_there_is_no_room_says_so_and_gives_up_in_time(lab: Lab) -> None:
    job = lab.job("room", resources__world_size=16, train__global_batch_size=32)
    done = lab.laptop.launcher(
        "submit", str(job), "--cluster", "lab", "--wait", "--wait-timeout", "3"
    )
    assert done.returncode == 5, done.stdout + done.stderr
    run_dir = RunDir(str(lab.storage / done.stdout.splitlines()[0]))
    assert "16 ranks of 1 CPUs each do not fit" in events(run_dir, "waiting")[0]["reason"]
    shown = lab.ask("show", run_dir.run_id)
    assert shown["outcome"]["error"]["kind"] == "no_capacity"
    resumed = lab.laptop.launcher(
        "resume", run_dir.run_id, "--cluster", "lab", "--wait-timeout", "3"
    )
    assert resumed.returncode == 5, resumed.stdout + resumed.stderr


def test_a_missing_token_and_an_unreachable_head_are_told_in_one_line(lab: Lab) -> None:
    job = str(lab.job("refused"))
    storage = f"--storage={lab.storage}"
    url = f"http://{lab.head.address}:8265"
    nobody = lab.folder / "nobody"
    nobody.mkdir()
    refused = lab.laptop.run(
        *(sys.executable, "-m", "launcher", "submit", job, "--cluster", url, storage),
        HOME=str(nobody),
    )
    assert refused.returncode == 4
    assert refused.stderr.splitlines()[-1].startswith(f"error: cluster {url} refuses us: its token")
    examined = lab.laptop.run(
        *(sys.executable, "-m", "launcher", "doctor", "--cluster", url), HOME=str(nobody)
    )
    assert examined.returncode == 4
    assert examined.stderr == refused.stderr
    silent = lab.laptop.launcher("submit", job, "--cluster", "http://10.77.0.99:8265", storage)
    assert silent.returncode == 4
    assert "does not answer" in silent.stderr.splitlines()[-1]


def test_a_full_storage_ends_the_run_and_loses_nothing(lab: Lab) -> None:
    lab.complete()
    storage = lab.folder / "full"
    job = lab.job("full-disk", model__args={"ballast_mb": 2})
    done = lab.laptop.launcher(
        "submit", str(job), "--cluster", "lab", "--storage", str(storage), "--wait"
    )
    assert done.returncode == 3, done.stdout + done.stderr
    run_dir = RunDir(str(storage / done.stdout.splitlines()[0]))
    shown = lab.laptop.launcher("show", run_dir.url, "-o", "json")
    error = json.loads(shown.stdout)["outcome"]["error"]
    assert error["kind"] == "storage"
    assert "No space left on device" in error["message"]
    assert checkpoint.newest_valid(run_dir).name


def test_a_secret_that_a_host_lacks_is_named_before_training(lab: Lab) -> None:
    run_dir = lab.submit(lab.job("secret", secrets=["NO_SUCH_KEY"], resources__world_size=1))
    outcome = lab.wait(run_dir, exit_code=3)
    assert outcome["error"]["message"].startswith(
        f"secrets: NO_SUCH_KEY of the spec is not on host {lab.head.address}; "
    )
    assert rows(run_dir) == []


def test_a_planted_secret_is_found_nowhere(lab: Lab) -> None:
    job = lab.job("planted", secrets=["WANDB_API_KEY"], resources__world_size=1)
    lab.wait(lab.submit(job))
    found = [
        path
        for path in lab.storage.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert found == []
    command_lines = [" ".join(process.cmdline()) for process in lab.head.processes()]
    assert not any(SECRET in line for line in command_lines)
    listed = lab.laptop.run(
        *("curl", "-s", "-H", f"Authorization: Bearer {lab.token.read_text()}"),
        f"http://{lab.head.address}:8265/api/jobs/",
    )
    assert "launcher_run" in listed.stdout
    assert SECRET not in listed.stdout
