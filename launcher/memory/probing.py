"""The process that measures a job's memory: reads a plan from stdin, writes JSON to stdout.

It may import torch and the user's code; the command that asks does not.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launcher.engines.libraries import imported_ahead
from launcher.plan import RunPlan
from launcher.targets import load

_FEW = 2
"""Samples, and twice as many: from these two the activations of a larger batch are known."""


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
    """With few samples, and from them what the micro-batch would take."""
    from torch.utils.data import default_collate

    from launcher.memory.probe import measure_with_memory

    _stay_within_free_memory()
    wanted = plan.train.micro_batch_size
    few = [
        measure_with_memory(plan, task, default_collate([sample] * n), samples=n)
        for n in ((wanted,) if wanted <= 2 * _FEW else (_FEW, 2 * _FEW))
    ]
    less, more = few[0], few[-1]
    grown = {
        share: round(
            size + (size - dict(less.profile).get(share, 0)) * (wanted - more.samples) / _FEW
        )
        for share, size in more.profile
    }
    return replace(more, samples=wanted, profile=tuple(grown.items()))


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


def _stay_within_free_memory() -> None:
    """So that a model too large raises here, and does not make the kernel kill others."""
    with contextlib.suppress(OSError, ValueError):
        pages = os.sysconf("SC_AVPHYS_PAGES")
        limit = _resident_bytes() + pages * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


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
