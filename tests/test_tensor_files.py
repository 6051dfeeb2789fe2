"""Files of tensors are those of the safetensors library: it reads ours, and we read its."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from launcher import tensor_files
from launcher.errors import SpecError, StorageError


def save(tensors: dict[str, Tensor], path: Path) -> None:
    described = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with tensor_files.TensorFile(path, described) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)


SHARED = [
    *(torch.bool, torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int16, torch.uint16, torch.float16, torch.bfloat16),
    *(torch.int32, torch.uint32, torch.float32),
    *(torch.int64, torch.uint64, torch.float64, torch.complex64),
]
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=4)


def filled(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits at all, NaNs included; a bool is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    nbytes = torch.empty(shape, dtype=dtype).nbytes
    high = 2 if dtype == torch.bool else 256
    raw = torch.randint(high, (nbytes,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(shape) if nbytes else torch.empty(shape, dtype=dtype)


TENSORS = st.dictionaries(
    NAMES, st.builds(filled, SHAPES, st.sampled_from(SHARED), st.integers(0, 99)), max_size=6
)


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], list[int]]:
    return tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).tolist()


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return {n: bits(t) for n, t in some.items()} == {n: bits(t) for n, t in others.items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=TENSORS)
def test_the_library_reads_our_files_and_we_read_its(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    save(tensors, ours)
    save_file(tensors, theirs)
    assert same(load_file(ours), tensors)
    assert same(tensor_files.load(theirs), tensors)
    assert same(tensor_files.load(ours), tensors)


@pytest.mark.parametrize("dtype", SHARED, ids=str)
def test_the_same_tensor_makes_the_same_file(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"b": filled([3, 2], dtype, 1), "a": filled([], dtype, 2), "": filled([0], dtype, 3)}
    save(tensors, tmp_path / "ours")
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_file_with_metadata_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a", metadata={"format": "pt"})
    assert same(tensor_files.load(tmp_path / "a"), {"a": torch.ones(2)})


def test_what_is_loaded_can_be_changed_and_the_file_stays(tmp_path: Path) -> None:
    save({"a": torch.ones(2)}, tmp_path / "a")
    tensor_files.load(tmp_path / "a")["a"].zero_()
    assert same(tensor_files.load(tmp_path / "a"), {"a": torch.ones(2)})


def test_a_type_that_the_format_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^phase is of torch\.complex128, which no checkpoint"):
        save({"phase": torch.ones(2, dtype=torch.complex128)}, tmp_path / "a")


def test_a_full_disk_is_told_by_the_operating_system() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        save({"a": torch.ones(99_999)}, Path("/dev/full"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_cut_or_has_more_at_its_end_is_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "a"
    save({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.uint8)}, path)
    whole = path.read_bytes()
    length = data.draw(st.integers(0, len(whole) + 9).filter(lambda n: n != len(whole)))
    path.write_bytes(whole[:length].ljust(length, b"\0"))
    with pytest.raises(StorageError, match="is no whole safetensors file: "):
        tensor_files.load(path)


def described(begin: int, end: int, dtype: str = "U8", shape: object = (4,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ([], "its header is no JSON object"),
        ({"a": described(0, 4), "b": described(6, 10)}, "b begins at byte 6, not 4"),
        ({"a": described(0, 4), "b": described(2, 6)}, "b begins at byte 2, not 4"),
        ({"a": described(4, 8)}, "a begins at byte 4, not 0"),
        ({"a": described(0, 4)}, "it has 8 bytes of data, not 4"),
        ({"a": described(0, 8)}, r"a has 8 bytes, which is not \(4,\) of torch\.uint8"),
        ({"a": described(0, 8, shape=[-1, -8])}, "a has 8 bytes, which is not"),
        ({"a": described(8, 0)}, "a has -8 bytes, which is not"),
        ({"a": described(0, 8, dtype="F4")}, "its header describes a as:"),
        ({"a": described(0, 8, shape=8)}, "its header describes a as:"),
        ({"a": {"dtype": "U8"}}, "its header describes a as:"),
        ({"a": 1}, "its header describes a as:"),
    ],
)
def test_a_header_that_does_not_fit_its_data_is_refused(
    tmp_path: Path, header: object, reason: str
) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(StorageError, match=reason):
        tensor_files.load(tmp_path / "a")
