"""`launcher.doctor`: what each measurement means, and that the measuring leaves nothing behind."""

from pathlib import Path

import pytest

from launcher import doctor
from launcher.doctor import trial, verdicts
from launcher.doctor.probing import write_trouble
from launcher.doctor.trial import Trial, read_trial, try_torch
from launcher.resources.gpus import Gpu

GIB = 1 << 30
GOOD = Trial(version="2.9.0", import_s=1.5, cuda="13.0", total=3.0, cuda_devices=2)
H200 = Gpu(name="H200", memory_bytes=140 * GIB, compute_capability=(9, 0))
T4 = Gpu(name="T4", memory_bytes=16 * GIB, compute_capability=(7, 5))


VERDICTS = [
    (verdicts.python(("3", "13", "1")), "ok", "3.13.1"),
    (verdicts.python(("3", "9", "2")), "FAIL", "older than 3.11"),
    (verdicts.cores(2, affinity=4, machine=8), "ok", "quota allows 2"),
    (verdicts.cores(8, affinity=8, machine=8), "ok", "8 of 8"),
    (verdicts.memory(64 * GIB), "ok", "64.0 GiB"),
    (verdicts.memory(GIB), "warn", "1.0 GiB"),
    (verdicts.shared_memory(2 * GIB), "ok", "2.00 GiB"),
    (verdicts.shared_memory(64 << 20), "warn", "0.06 GiB"),
    (verdicts.gpus(()), "ok", "none"),
    (verdicts.gpus((H200, H200)), "ok", "2 x H200, 140 GiB"),
    (verdicts.gpus((H200, T4)), "warn", "1 x H200, 140 GiB; 1 x T4, 16 GiB"),
    (verdicts.driver("it answers 'no'; reboot"), "FAIL", "it answers 'no'"),
    (verdicts.storage("/runs", trouble="", free_bytes=9 * GIB), "ok", "9.0 GiB free"),
    (verdicts.storage("/runs", trouble="", free_bytes=GIB), "warn", "1.0 GiB free"),
    (verdicts.storage("/runs", trouble="", free_bytes=GIB / 9), "FAIL", "0.1 GiB free"),
    (verdicts.storage("/runs", trouble="read-only", free_bytes=GIB), "FAIL", "read-only"),
    (verdicts.torch("2.9.0", GOOD), "ok", "built for CUDA 13.0"),
    (verdicts.torch("", Trial()), "FAIL", "not installed"),
    (verdicts.torch("2.9.0", Trial(trouble="no libc")), "FAIL", "no libc"),
    (verdicts.cuda(2, GOOD), "ok", "2 of 2"),
    (verdicts.cuda(8, GOOD), "FAIL", "2 of 8"),
    (verdicts.cuda(1, Trial(version="2.9.0+cpu")), "FAIL", "0 of 1"),
    (verdicts.gloo(GOOD), "ok", "added"),
    (verdicts.gloo(Trial(version="2.9.0", trouble="no route")), "FAIL", "no route"),
    (verdicts.wandb("0.31", key=True), "ok", "API key"),
    (verdicts.wandb("0.31", key=False), "warn", "offline"),
    (verdicts.wandb("", key=False), "ok", "not installed"),
    (verdicts.compiler("/usr/bin/g++"), "ok", "/usr/bin/g++"),
    (verdicts.compiler(""), "warn", "no C++ compiler"),
]


@pytest.mark.parametrize(
    ("check", "status", "word"), VERDICTS, ids=[f"{c.name}: {word}" for c, _, word in VERDICTS]
)
def test_a_measurement_gets_its_status_and_whatever_is_not_ok_a_fix(
    check: verdicts.Check, status: str, word: str
) -> None:
    assert check.status == status
    assert word in check.finding
    assert check.fix or status == "ok"


def test_a_trial_that_ends_early_keeps_what_it_found_and_the_last_words() -> None:
    said = '{"version": "2.9.0", "cuda": "", "import_s": 1.0}\n'
    found = read_trial(said, error="Traceback:\n  ...\nRuntimeError: no route to host\n\n")
    assert found == Trial(version="2.9.0", import_s=1.0, trouble="RuntimeError: no route to host")


def test_a_torch_that_does_not_answer_is_given_up_in_time() -> None:
    found = try_torch(timeout_s=0.01)
    assert found.version == ""
    assert found.trouble == "no answer within 0.01 s"


def test_probing_a_storage_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "try_torch", lambda **_: GOOD)
    checks = {check.name: check for check in doctor.examine(str(tmp_path / "a" / "runs"))}
    assert checks["storage"].status == "ok"
    assert checks["gloo"].status == "ok"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("storage", ["s4://bucket/runs", "FILE/runs"])
def test_a_storage_that_cannot_be_written_fails(tmp_path: Path, storage: str) -> None:
    (tmp_path / "FILE").write_text("")
    place = storage.replace("FILE", str(tmp_path / "FILE"))
    assert write_trouble(place)


def test_two_real_ranks_add_their_numbers() -> None:
    assert trial.try_torch(timeout_s=120).total == 3.0
