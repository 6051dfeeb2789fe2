"""The GPUs of this host, through NVML: no CUDA context is made.

Untried on a host with a GPU so far.
"""

from collections.abc import Sequence

import pynvml

from launcher.errors import PreflightError
from launcher.resources.gpus import Gpu


def visible_gpus(visible: str | None, *, host_memory_bytes: int) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show, asked from the driver so that CUDA is not started."""
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()
    except pynvml.NVMLError as error:
        raise PreflightError(_driver_trouble(error)) from error
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        return tuple(
            Gpu(
                name=pynvml.nvmlDeviceGetName(handles[index]),
                memory_bytes=_gpu_memory_bytes(handles[index], host_memory_bytes),
                compute_capability=pynvml.nvmlDeviceGetCudaComputeCapability(handles[index]),
            )
            for index in _visible(visible, uuids=uuids)
        )
    except pynvml.NVMLError as error:
        raise PreflightError(_driver_trouble(error)) from error
    finally:
        pynvml.nvmlShutdown()


def _driver_trouble(error: Exception) -> str:
    return (
        f"the NVIDIA driver answers {str(error)!r}; see what `nvidia-smi` says and mend that, "
        "or set CUDA_VISIBLE_DEVICES=-1 to train without GPUs"
    )


def _gpu_memory_bytes(handle: object, host_memory_bytes: int) -> int:
    """Total memory; a GPU without its own (Grace Blackwell desktop, Jetson) shares the host's."""
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError_NotSupported:
        return host_memory_bytes


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
