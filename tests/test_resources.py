"""Resources are what the process may really use: quotas, visible GPUs and credentials included.

Folders and texts are literal, so no test depends on the machine; the last ones measure this one.
"""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import resources
from launcher.errors import PreflightError
from launcher.resources import Gpu, cgroups, credentials, network, nvml, oom_kill_count, this_host

GIB = 2**30
UUIDS = ["GPU-aa11-0", "GPU-aa22-1", "GPU-bb33-2"]


def write(folder: Path, **files: str) -> Path:
    """A cgroup folder; the first `_` of a keyword stands for the dot of the file name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")
    return folder


def v2_mount(root: Path, *, mounted: str = "/") -> str:
    return f"30 23 0:26 {mounted} {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1_mount(root: Path, controllers: str, *, mounted: str = "/") -> str:
    return f"32 25 0:29 {mounted} {root} rw,nosuid - cgroup cgroup rw,{controllers}\n"


def test_cgroups_of_v2_are_the_own_one_and_every_parent_up_to_the_mount(tmp_path: Path) -> None:
    found = cgroups.cgroups_of("cpu", membership="0::/a.slice/job\n", mounts=v2_mount(tmp_path))
    assert found == [tmp_path / "a.slice" / "job", tmp_path / "a.slice", tmp_path]


def test_cgroups_of_v1_are_those_of_the_controller_alone(tmp_path: Path) -> None:
    membership = "4:memory:/other\n3:cpu,cpuacct:/job\n1:name=systemd:/\n"
    mounts = (
        "23 0 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro\n"
        + v1_mount(tmp_path / "memory", "memory")
        + v1_mount(tmp_path / "cpu,cpuacct", "cpu,cpuacct")
    )
    found = cgroups.cgroups_of("cpu", membership=membership, mounts=mounts)
    assert found == [tmp_path / "cpu,cpuacct" / "job", tmp_path / "cpu,cpuacct"]


def test_a_container_that_sees_only_its_own_cgroup_finds_it_at_the_mount(tmp_path: Path) -> None:
    mounts = v2_mount(tmp_path, mounted="/docker/abc")
    inner = cgroups.cgroups_of("cpu", membership="0::/docker/abc/sub\n", mounts=mounts)
    assert inner == [tmp_path / "sub", tmp_path]
    outside = cgroups.cgroups_of("cpu", membership="0::/../other\n", mounts=v2_mount(tmp_path))
    assert outside == [tmp_path]


def test_a_host_without_cgroups_sets_no_limits() -> None:
    assert cgroups.cgroups_of("cpu", membership="", mounts="") == []
    assert cgroups.usable_cores(8, cgroups=[]) == 8
    assert cgroups.usable_memory_bytes(8 * GIB, cgroups=[]) == 8 * GIB


def test_the_tightest_of_nested_v2_quotas_limits_the_cores(tmp_path: Path) -> None:
    parent = write(tmp_path / "pod", cpu_max="350000 100000")
    own = write(parent / "job", cpu_max="max 100000")
    assert cgroups.usable_cores(64, cgroups=[own, parent, tmp_path]) == 3


def test_a_v1_quota_limits_the_cores(tmp_path: Path) -> None:
    own = write(tmp_path, cpu_cfs_quota_us="400000", cpu_cfs_period_us="100000")
    assert cgroups.usable_cores(64, cgroups=[own]) == 4


def test_quotas_called_max_or_minus_one_set_no_limit(tmp_path: Path) -> None:
    v2 = write(tmp_path / "v2", cpu_max="max 100000")
    v1 = write(tmp_path / "v1", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    assert cgroups.usable_cores(64, cgroups=[v2, v1]) == 64


def test_half_a_core_counts_as_one_and_an_affinity_below_the_quota_wins(tmp_path: Path) -> None:
    assert cgroups.usable_cores(64, cgroups=[write(tmp_path / "a", cpu_max="50000 100000")]) == 1
    assert cgroups.usable_cores(2, cgroups=[write(tmp_path / "b", cpu_max="800000 100000")]) == 2


def test_the_tightest_of_nested_memory_limits_holds(tmp_path: Path) -> None:
    parent = write(tmp_path / "pod", memory_max=str(4 * GIB))
    own = write(parent / "job", memory_max="max")
    assert cgroups.usable_memory_bytes(64 * GIB, cgroups=[own, parent, tmp_path]) == 4 * GIB


def test_a_v1_memory_limit_holds_and_its_unlimited_value_is_none(tmp_path: Path) -> None:
    limited = write(tmp_path / "limited", memory_limit_in_bytes=str(2 * GIB))
    unlimited = write(tmp_path / "unlimited", memory_limit_in_bytes="9223372036854771712")
    assert cgroups.usable_memory_bytes(8 * GIB, cgroups=[unlimited]) == 8 * GIB
    assert cgroups.usable_memory_bytes(8 * GIB, cgroups=[limited, unlimited]) == 2 * GIB


def test_memory_kills_are_read_from_the_nearest_cgroup_that_counts_them(tmp_path: Path) -> None:
    v2 = write(tmp_path / "v2", memory_events="low 0\nmax 90\noom 4\noom_kill 3\noom_group_kill 1")
    v1 = write(tmp_path / "v1", memory_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2")
    assert cgroups.oom_kills([tmp_path / "uncounted", v2, v1]) == 3
    assert cgroups.oom_kills([v1, v2]) == 2
    assert cgroups.oom_kills([tmp_path / "uncounted"]) == 0


def test_shared_memory_is_never_more_than_the_memory(tmp_path: Path) -> None:
    assert resources._shm_bytes(tmp_path, memory_bytes=1000) == 1000
    assert resources._shm_bytes(tmp_path / "absent", memory_bytes=1000) == 1000


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2", [1, 2]),
        ("0,2,-1,1", [0, 2]),
        ("1,7,0", [1]),
        ("1,1", []),
        ("GPU-bb33-2,GPU-aa11", [2, 0]),
        ("GPU-aa", []),
        ("GPU-bb,GPU-zz,GPU-aa11", [2]),
        ("GPU-bb,0", [2]),
        ("0,GPU-bb", [0]),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_select_gpus_as_cuda_does(visible: str | None, indices: list[int]) -> None:
    assert nvml._visible(visible, uuids=UUIDS) == indices


def test_a_mig_slice_is_refused_by_name() -> None:
    with pytest.raises(PreflightError, match="MIG slices are not supported"):
        nvml._visible("MIG-4f-1", uuids=UUIDS)


def driver(folder: Path, *, init: int = 0) -> str:
    """A driver's library, made of `fake_nvml.c`; `init` is what its start answers."""
    library = folder / f"nvml-{init}.so"
    source = Path(__file__).with_name("fake_nvml.c")
    command = ["cc", "-shared", "-fPIC", f"-DINIT={init}", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return str(library)


def test_gpus_are_listed_in_the_visible_order_and_the_driver_is_let_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = driver(tmp_path)
    monkeypatch.setattr(nvml, "_LIBRARY", library)
    assert nvml.visible_gpus("2,0", host_memory_bytes=64 * GIB) == (
        Gpu(name="gpu 2", memory_bytes=64 * GIB, compute_capability=(9, 5)),
        Gpu(name="gpu 0", memory_bytes=16 * GIB, compute_capability=(7, 5)),
    )
    assert nvml.visible_gpus("GPU-aa22", host_memory_bytes=GIB)[0].name == "gpu 1"
    assert ctypes.c_int.in_dll(ctypes.CDLL(library), "opened").value == 0


@pytest.mark.parametrize("code", [9, 12])
def test_a_host_without_a_driver_has_no_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    monkeypatch.setattr(nvml, "_LIBRARY", driver(tmp_path, init=code))
    assert nvml.visible_gpus(None, host_memory_bytes=GIB) == ()
    monkeypatch.setattr(nvml, "_LIBRARY", "libno-such-driver.so.1")
    assert nvml.visible_gpus(None, host_memory_bytes=GIB) == ()


def test_a_broken_driver_is_an_error_unless_gpus_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nvml, "_LIBRARY", driver(tmp_path, init=18))
    with pytest.raises(PreflightError, match=r"answers 'Driver/library version mismatch'; see"):
        nvml.visible_gpus(None, host_memory_bytes=GIB)
    assert nvml.visible_gpus("-1", host_memory_bytes=GIB) == ()


def test_the_interface_of_an_address_is_the_one_that_holds_it() -> None:
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("192.0.2.77") == ""


def test_bf16_is_native_from_ampere_on() -> None:
    assert not Gpu(name="T4", memory_bytes=1, compute_capability=(7, 5)).native_bf16
    assert Gpu(name="A100", memory_bytes=1, compute_capability=(8, 0)).native_bf16


def test_name_and_flags_of_an_x86_cpu_are_those_of_its_first_core() -> None:
    core = "processor\t: {n}\nmodel name\t: AMD EPYC: 9R14\nflags\t\t: fpu avx512_bf16 sse\n\n"
    name, flags = resources._cpu(core.format(n=0) + core.format(n=1))
    assert name == "AMD EPYC: 9R14"
    assert flags == {"fpu", "avx512_bf16", "sse"}


def test_an_arm_cpu_has_features_and_no_name() -> None:
    name, flags = resources._cpu(
        "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\nCPU part\t: 0xd4f\n"
    )
    assert name == ""
    assert "bf16" in flags


def wandb_key(home: Path, **env: str) -> bool:
    return credentials.has_wandb_key(env, home=home, cwd=home)


def test_an_api_key_in_the_environment_counts_unless_empty_or_offline(tmp_path: Path) -> None:
    assert wandb_key(tmp_path, WANDB_API_KEY="k")
    assert wandb_key(tmp_path, WANDB_API_KEY="k", WANDB_MODE="online")
    assert not wandb_key(tmp_path, WANDB_API_KEY="")
    assert not wandb_key(tmp_path, WANDB_API_KEY="k", WANDB_MODE="offline")
    assert not wandb_key(tmp_path, WANDB_API_KEY="k", WANDB_MODE="disabled")


@pytest.mark.parametrize("machine", ["api.wandb.ai", "api.forge.coreweave.com"])
def test_a_netrc_entry_for_the_public_service_counts(tmp_path: Path, machine: str) -> None:
    (tmp_path / ".netrc").write_text(f"machine {machine}\n  login user\n  password k\n")
    assert wandb_key(tmp_path)
    assert not wandb_key(tmp_path, WANDB_BASE_URL="https://wandb.example.org:8080")


def test_a_netrc_entry_for_another_server_counts_where_that_server_is_set(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("machine wandb.example.org:8080 login user password k\n")
    assert not wandb_key(tmp_path, NETRC=str(file))
    assert wandb_key(tmp_path, NETRC=str(file), WANDB_BASE_URL="https://wandb.example.org:8080")


@pytest.mark.parametrize(
    "text", ["", "machine api.wandb.ai login user\n", "default login u password p\n", "machine\n"]
)
def test_a_netrc_without_a_key_for_the_server_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".netrc").write_text(text)
    assert not wandb_key(tmp_path)


def test_servers_and_modes_that_wandb_wrote_down_are_respected(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine own.example.org login user password k\n")
    write(tmp_path / ".config" / "wandb", settings="[default]\nbase_url = https://own.example.org")
    assert wandb_key(tmp_path)
    write(tmp_path / "wandb", settings="[default]\nmode = offline")
    assert not wandb_key(tmp_path)
    assert wandb_key(tmp_path, WANDB_MODE="online")


def test_a_settings_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    write(tmp_path / ".config" / "wandb", settings="no section")
    assert wandb_key(tmp_path, WANDB_API_KEY="k")


def test_this_host_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    host = this_host()
    assert host.host
    assert host.cpu_name
    assert host.cores >= 1
    assert 0 < host.shm_bytes <= host.memory_bytes
    assert host.gpus == ()
    assert not host.wandb_key
    assert oom_kill_count() >= 0


def test_measuring_does_not_import_torch() -> None:
    code = "import sys, launcher.resources as r; r.this_host(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
