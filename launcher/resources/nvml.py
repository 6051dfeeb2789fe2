"""The GPUs of this host, asked from the driver's own library, NVML: no CUDA context is made.

Called without NVIDIA's package for it, which hosts with torch and Ray need not have. Function
names, codes and sizes are those of nvml.h. Untried on a host with a GPU so far.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p, create_string_buffer
from typing import Any

from launcher.errors import PreflightError
from launcher.resources.gpus import Gpu

_LIBRARY = "libnvidia-ml.so.1"
_NOT_SUPPORTED = 3
_NO_DRIVER = (9, 12)
"""The driver is not loaded, or its library not found."""
_TEXT_BYTES = 96


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


class _NvmlError(Exception):
    """A call that failed, with its code and what the library says of it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def visible_gpus(visible: str | None, *, host_memory_bytes: int) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show, asked from the driver so that CUDA is not started."""
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    try:
        nvml = _Nvml()
    except OSError:
        return ()
    try:
        nvml.call("nvmlInit_v2")
    except _NvmlError as error:
        if error.code in _NO_DRIVER:
            return ()
        raise PreflightError(_driver_trouble(error)) from error
    try:
        handles = nvml.handles()
        uuids = [nvml.text("nvmlDeviceGetUUID", handle) for handle in handles]
        return tuple(
            Gpu(
                name=nvml.text("nvmlDeviceGetName", handles[index]),
                memory_bytes=nvml.memory_bytes(handles[index]) or host_memory_bytes,
                compute_capability=nvml.compute_capability(handles[index]),
            )
            for index in _visible(visible, uuids=uuids)
        )
    except _NvmlError as error:
        raise PreflightError(_driver_trouble(error)) from error
    finally:
        nvml.call("nvmlShutdown")


class _Nvml:
    """The few calls that are needed; OSError where there is no such library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_LIBRARY)
        self._library.nvmlErrorString.restype = c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise _NvmlError(code, self._library.nvmlErrorString(code).decode())

    def handles(self) -> list[c_void_p]:
        """One for each GPU, in the driver's order."""
        count = c_uint()
        self.call("nvmlDeviceGetCount_v2", byref(count))
        handles = [c_void_p() for _ in range(count.value)]
        for index, handle in enumerate(handles):
            self.call("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle))
        return handles

    def text(self, name: str, handle: c_void_p) -> str:
        buffer = create_string_buffer(_TEXT_BYTES)
        self.call(name, handle, buffer, c_uint(_TEXT_BYTES))
        return buffer.value.decode()

    def memory_bytes(self, handle: c_void_p) -> int:
        """In total; 0 of a GPU that shares the host's (Grace Blackwell desktop, Jetson)."""
        memory = _Memory()
        try:
            self.call("nvmlDeviceGetMemoryInfo", handle, byref(memory))
        except _NvmlError as error:
            if error.code != _NOT_SUPPORTED:
                raise
        return int(memory.total)

    def compute_capability(self, handle: c_void_p) -> tuple[int, int]:
        major, minor = c_int(), c_int()
        self.call("nvmlDeviceGetCudaComputeCapability", handle, byref(major), byref(minor))
        return major.value, minor.value


def _driver_trouble(error: Exception) -> str:
    return (
        f"the NVIDIA driver answers {str(error)!r}; see what `nvidia-smi` says and mend that, "
        "or set CUDA_VISIBLE_DEVICES=-1 to train without GPUs"
    )


def _visible(visible: str | None, *, uuids: Sequence[str]) -> list[int]:
    """Driver indices that CUDA_VISIBLE_DEVICES selects, by index or by the start of a UUID.

    As CUDA does, the list ends before the first entry that names no GPU, and an entry that comes
    twice makes it empty (torch.cuda._parse_visible_devices).
    """
    if visible is None:
        return list(range(len(uuids)))
    if visible.startswith("MIG-"):
        raise PreflightError(
            f"CUDA_VISIBLE_DEVICES is {visible!r}: MIG slices are not supported; name whole GPUs"
        )
    by_uuid = visible.startswith("GPU-")
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if by_uuid and not entry.startswith("GPU-"):
            break
        found = [
            index
            for index, uuid in enumerate(uuids)
            if (uuid.startswith(entry) if by_uuid else str(index) == entry)
        ]
        if len(found) != 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen
