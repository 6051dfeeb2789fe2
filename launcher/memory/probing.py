"""The process that measures a job's memory: reads a plan from stdin, writes JSON to stdout.

It may import torch and the user's code; the command that asks does not.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launcher.engines.libraries import imported_ahead
from launcher.memory.needs import extrapolated
from launcher.plan import RunPlan
from launcher.targets import load

_FEW = 2
_GROWTH = 4
_PATIENCE_S = 8.0


def main() -> None:
    """`{"measured": {...}}`, or `{"absent": why}`. What the user's code prints goes to stderr."""
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    plan = RunPlan.model_validate_json(sys.stdin.read())
    found: dict[str, Any]
    try:
        found = {"measured": _measured(plan)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the user's code raises what it likes
        found = {"absent": _first_line(error)}
    answer.write(json.dumps(found))
    answer.flush()
    os._exit(0)  # threads of the user's modules are waited for by nobody


def _measured(plan: RunPlan) -> dict[str, Any]:
    import torch._dynamo  # noqa: F401  # a rank has it, too; see `engines.zygote`
    from torch.utils.data import default_collate

    from launcher import worker  # noqa: F401  # what a rank imports
    from launcher.data.randomness import mix, seed_cpu
    from launcher.distributed import set_environment
    from launcher.memory.probe import measure_with_fakes
    from launcher.task import make_task

    sys.path.insert(0, plan.code_dir)
    seed_cpu(mix(plan.seed))
    set_environment({"DS_ACCELERATOR": "cpu"})  # it must look for no GPU here
    for name in imported_ahead(plan):
        with contextlib.suppress(ImportError):  # the estimate is for those who lack it, too
            importlib.import_module(name)
    _import_targets(plan.task.model_dump())
    task = make_task(plan)
    sample = task.train_data()[0]
    process_bytes = _resident_bytes()
    samples = plan.train.micro_batch_size
    try:
        batch = default_collate([sample] * samples)
        measured = measure_with_fakes(plan, task, batch, samples=samples)
    except Exception:  # noqa: BLE001  # operations on values, a task of unusual kind
        measured = _measured_with_memory(plan, task, sample)
    return asdict(replace(measured, process_bytes=process_bytes))


def _measured_with_memory(plan: RunPlan, task: Any, sample: Any) -> Any:
    """With more and more samples, as long as that is quick and there is room for it."""
    from torch.utils.data import default_collate

    from launcher.memory.probe import measure_with_memory

    free_bytes = _stay_within_free_memory()
    wanted = plan.train.micro_batch_size

    def measure(samples: int) -> Any:
        batch = default_collate([sample] * samples)
        return measure_with_memory(plan, task, batch, samples=samples)

    less = more = measure(min(wanted, _FEW))
    begun = time.perf_counter()
    while more.samples < wanted and time.perf_counter() - begun < _PATIENCE_S:
        largest = max((size for _, size in more.profile), default=0)
        if _GROWTH * largest > free_bytes:
            break
        less, more = more, measure(min(wanted, _GROWTH * more.samples))
    if more.samples == wanted or more.samples == less.samples:
        return more
    return extrapolated(less, more, samples=wanted)


def _import_targets(value: Any) -> None:
    """All that the user's model and data are made by, before the process is weighed."""
    if isinstance(value, dict):
        if isinstance(value.get("target"), str):
            load(value["target"])
        for inner in value.values():
            _import_targets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _import_targets(inner)


def _stay_within_free_memory() -> int:
    """So that a model too large raises here, and does not make the kernel kill others."""
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _resident_bytes() + free_bytes
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return free_bytes


def _resident_bytes() -> int:
    """The memory that this process has."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


if __name__ == "__main__":
    main()
