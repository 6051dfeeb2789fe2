"""From a spec's values to a `JobSpec`, and everything that is wrong on the way, in one pass.

What is said about one fault is worded in `wording`; combinations of values are `planner`'s.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from launcher.spec import JobSpec, Key, Metric, Problem
from launcher.specfile.sections import section_at, targets_in
from launcher.specfile.tree import Tree
from launcher.specfile.wording import IMPORT_PATH, faults, shown
from launcher.targets import closest, find_problem, is_path

MOST_PASSES = 10
BUILT_IN_METRICS = ("accuracy", "loss", "perplexity")


@dataclass(frozen=True)
class Checked:
    """A checked spec; `tree` knows the places of misspelt keys by their right names too."""

    spec: JobSpec | None
    problems: tuple[Problem, ...]
    tree: Tree


def check(tree: Tree, *, folder: Path) -> Checked:
    """Find every fault; each is then mended or left out, so that the rest can be checked too."""
    problems = list(tree.problems)
    given_up: set[Key] = {problem.key for problem in problems}
    renamed = rest = tree
    spec = None
    for _ in range(MOST_PASSES):
        try:
            spec = JobSpec.model_validate(rest.data)
            break
        except ValidationError as exc:
            found = list(faults(exc, rest))
        misspelt = {fault.meant for fault in found if fault.meant}
        for fault in found:
            key = fault.problem.key
            if fault.kind == "missing" and key in misspelt:
                continue
            if key not in given_up:
                problems.append(fault.problem)
            left_out = key[:-1] if fault.kind == "missing" else key
            given_up.add(left_out)
            rest = rest.move(key, fault.meant) if fault.meant else rest.prune(left_out)
            renamed = renamed.move(key, fault.meant) if fault.meant else renamed
    told = {problem.key for problem in problems}
    problems += [p for p in target_problems(renamed, folder=folder) if p.key not in told]
    return Checked(spec=spec, problems=tuple(problems), tree=rest)


def target_problems(tree: Tree, *, folder: Path) -> Iterator[Problem]:
    """The import paths that lead nowhere, as far as can be told without importing."""
    search_path = [str(folder), *sys.path]
    told: set[str] = set()
    for key, target in targets_in(tree.data):
        reason = _target_reason(key, target, search_path)
        if reason and reason not in told:
            told.add(reason)
            yield Problem(key, reason)


def _target_reason(key: Key, target: str, search_path: list[str]) -> str | None:
    owner = section_at(key) or section_at(key[:-1])
    if owner is not None and issubclass(owner, Metric) and not set(".:") & set(target):
        if target in BUILT_IN_METRICS:
            return None
        near = closest(target, BUILT_IN_METRICS)
        hint = f"; did you mean {near}?" if near else ""
        known = ", ".join(BUILT_IN_METRICS)
        return f"is {shown(target)}, neither one of {known} nor an import path{hint}"
    if not is_path(target):
        return f"is {shown(target)}, must be {IMPORT_PATH}"
    return find_problem(target, search_path=search_path)
