"""Tensors in files of the safetensors format, without the library, which no cluster host has.

Which tensors there are, and when they are saved, is `saving`'s knowledge. The format is described
at https://github.com/huggingface/safetensors#format; like its library, this takes no file whose
tensors leave holes or overlap, so nothing can be hidden in one.
"""

import ctypes
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from launcher import storage
from launcher.errors import SpecError, StorageError

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 8
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The library reads no longer one."""
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Part:
    """What one rank holds of a tensor that is saved."""

    values: Tensor
    """Live, and contiguous where they are not the whole."""
    shape: tuple[int, ...]
    """Of the whole."""
    begin: int
    """Where in the flattened whole the values begin."""


class TensorFile:
    """A new file for tensors of these dtypes and shapes, whose values are then written in parts.

    SpecError for a dtype that the format does not know.
    """

    def __init__(
        self, path: Path, described: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    ) -> None:
        header: dict[str, Any] = {}
        end = 0
        for name in sorted(described, key=lambda name: (-described[name][0].itemsize, name)):
            dtype, shape = described[name]
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": _dtype_name(name, dtype),
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._begin = len(text).to_bytes(_LENGTH_BYTES, "little") + text
        self._offsets = {
            name: len(self._begin) + entry["data_offsets"][0] for name, entry in header.items()
        }
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> Self:
        try:
            self._put(memoryview(self._begin), at=0)
        except OSError:
            self._file.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()

    def write(self, name: str, values: Tensor, *, begin: int = 0) -> None:
        """Writes values of a tensor, from the element `begin` of its flattened whole on.

        `values` is contiguous and on the CPU. OSError where the storage takes no more.
        """
        self._put(_memory(values), at=self._offsets[name] + begin * values.element_size())

    def _put(self, content: memoryview, *, at: int) -> None:
        self._file.seek(at)
        while content:
            content = content[self._file.write(content) :]


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped: a byte is read when it is used, and a change stays in memory.

    StorageError when the file is not whole.
    """
    with storage.reading_errors(str(path)), path.open("rb") as file:
        try:
            entries = list(_entries(file))
        except ValueError as error:
            raise StorageError(f"{path} is no whole safetensors file: {error}") from error
        data = file.tell()
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return {entry.name: _mapped(content, entry, offset=data + entry.begin) for entry in entries}


@dataclass(frozen=True)
class _Entry:
    """What the header says of one tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _entries(file: BinaryIO) -> Iterator[_Entry]:
    """In the order of their data, at whose first byte the file then stands.

    ValueError when they are not the whole of the file.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    data_bytes = file_bytes - _LENGTH_BYTES - header_bytes
    if data_bytes < 0 or header_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"it has {file_bytes} bytes, and a header of {header_bytes} is announced")
    header = json.loads(file.read(header_bytes))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop(_METADATA, None)
    entries = [_entry(name, described) for name, described in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    place = 0
    for entry in entries:
        if entry.begin != place:
            raise ValueError(f"{entry.name} begins at byte {entry.begin}, not {place}")
        place = entry.end
    if place != data_bytes:
        raise ValueError(f"it has {data_bytes} bytes of data, not {place}")
    yield from entries


def _entry(name: str, described: Any) -> _Entry:
    """ValueError where the parts do not fit each other."""
    try:
        dtype = _DTYPES[described["dtype"]]
        shape = tuple(map(int, described["shape"]))
        begin, end = map(int, described["data_offsets"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"its header describes {name} as: {described}") from error
    if min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {end - begin} bytes, which is not {shape} of {dtype}")
    return _Entry(name, dtype, shape, begin, end)


def _dtype_name(name: str, dtype: torch.dtype) -> str:
    if dtype not in _NAMES:
        raise SpecError(
            f"{name} is of {dtype}, which no checkpoint can hold; convert it to one of "
            f"{', '.join(str(known) for known in _NAMES)}"
        )
    return _NAMES[dtype]


def _mapped(content: mmap.mmap, entry: _Entry, *, offset: int) -> Tensor:
    elements = math.prod(entry.shape)
    if not elements:
        return torch.empty(entry.shape, dtype=entry.dtype)
    flat = torch.frombuffer(content, dtype=entry.dtype, count=elements, offset=offset)
    return flat.view(entry.shape)


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in place; numpy, which would show them too, may be missing."""
    assert tensor.device.type == "cpu"
    assert tensor.is_contiguous()
    if not tensor.nbytes:
        return memoryview(bytearray())
    view = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return memoryview(view).cast("B")
