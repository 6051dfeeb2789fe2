"""Ranks on the hosts of a Ray cluster. Ray finds the hosts, reaches them and says when one is lost.

On each host an actor owns a zygote, so ranks start, report, hang and die as on one machine, and a
restart forks from a zygote that has torch in memory. Ray Train would import it anew in each worker.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from launcher import planner, rundir
from launcher.contracts import Attempt, StopRequest
from launcher.engines.coordination import Coordination
from launcher.engines.protocol import Growth, Start
from launcher.engines.ray import cluster
from launcher.engines.ray.cluster import HostLostError, RemoteHost
from launcher.engines.ray.placement import Need, Node, Seat, largest, room, seats
from launcher.errors import PreflightError
from launcher.outcome import AttemptEnd, Failure
from launcher.plan import RunPlan
from launcher.storage import storage_errors

_POLL_S = 0.1
_POLL_DYING_S = 0.02
_UNFIT_S = 600.0
_LOOK_S = 2.0
"""How often a run looks at what hosts there are."""


class RayEngine:
    """The ranks of a run on a Ray cluster, over all its attempts."""

    name = "ray"
    restartable = True
    shows_output = False

    def __init__(self, plan: RunPlan, *, address: str, wait_timeout_s: float, token: str) -> None:
        """`address` empty: a private Ray on this machine. `token` is that of the run's hold."""
        self._need = Need(cpus=plan.ranks.threads_per_rank, gpus=int(plan.ranks.device == "cuda"))
        self._wait_timeout_s = wait_timeout_s
        self._hosts: list[RemoteHost] = []
        self._token = token
        self._unfit: dict[str, tuple[str, float]] = {}
        """By ids of nodes: why a host cannot train this run, and until when that counts."""
        self._trained = False
        cluster.connect(address, cpus=plan.ranks.max_world_size * self._need.cpus)

    def run(self, attempt: Attempt, *, stop: StopRequest) -> AttemptEnd:
        sizes = planner.world_sizes(attempt.plan)
        deadline = time.monotonic() + self._wait_timeout_s
        while True:
            places = self._wait_for_room(sizes, attempt, stop, deadline=deadline)
            if places is None:
                stopped = stop.graceful.is_set()
                return AttemptEnd(status="stopped") if stopped else self._no_room(sizes)
            world_size = sum(seat.ranks for seat in places)
            plan = planner.resized(attempt.plan, world_size)
            fresh = self._seat(places, plan)
            if self._all_fit(fresh, attempt, stop):
                break
            self._let_go(fresh)
            if time.monotonic() >= deadline:
                return self._no_room(sizes)
        self._trained = True
        _tell_placed(attempt, places)
        outlook = _Outlook(self._nodes, self._need, places=places, sizes=sizes)
        return self._follow(
            attempt, Coordination(_starts(attempt, plan, places, token=self._token)), outlook, stop
        )

    def _all_fit(self, fresh: Sequence[RemoteHost], attempt: Attempt, stop: StopRequest) -> bool:
        """Whether each new host can train; one that cannot is done without from now on."""
        unfit, answered = cluster.examine(fresh, attempt.run_dir.stored, stop=stop.graceful.is_set)
        for problem in unfit.values():
            _append_event(attempt, "unfit", reason=problem)
        until = time.monotonic() + _UNFIT_S
        self._unfit |= {node: (problem, until) for node, problem in unfit.items()}
        return answered and not unfit

    def close(self) -> None:
        self._let_go(self._hosts)
        cluster.disconnect()

    def _wait_for_room(
        self, sizes: Sequence[int], attempt: Attempt, stop: StopRequest, *, deadline: float
    ) -> tuple[Seat, ...] | None:
        """Where each rank goes; None: it was asked to stop, or waited long enough."""
        said = ""
        while not stop.graceful.is_set():
            nodes = self._nodes()
            if size := largest(sizes, nodes, self._need):
                return seats(size, nodes, self._need)
            if not self._trained and self._unfit and self._would_fit(sizes):
                raise PreflightError("\n".join(problem for problem, _ in self._unfit.values()))
            if time.monotonic() >= deadline:
                break
            waiting = self._shortage(sizes, nodes)
            if waiting != said:
                said = waiting
                _append_event(attempt, "waiting", reason=waiting)
            time.sleep(_POLL_S)
        return None

    def _shortage(self, sizes: Sequence[int], nodes: Sequence[Node]) -> str:
        has = ", ".join(f"{n.address} {n.cpus:g} CPUs {n.gpus:g} GPUs" for n in nodes)
        places = room(nodes, self._need)
        return (
            f"{min(sizes)} ranks of {self._need} each do not fit: there is room for {places} "
            f"(free: {has or 'no host'})"
        )

    def _no_room(self, sizes: Sequence[int]) -> AttemptEnd:
        message = f"{self._shortage(sizes, self._nodes())}; waited {self._wait_timeout_s:g} s"
        failure = Failure(kind="no_capacity", message=message, rank=0)
        return AttemptEnd(status="failed", failure=failure)

    def _would_fit(self, sizes: Sequence[int]) -> bool:
        """Whether there were room, if hosts that cannot train could."""
        nodes = cluster.free_nodes([host.held for host in self._hosts])
        return bool(largest(sizes, nodes, self._need))

    def _nodes(self) -> list[Node]:
        nodes = cluster.free_nodes([host.held for host in self._hosts])
        now = time.monotonic()
        return [node for node in nodes if self._unfit.get(node.id, ("", now))[1] <= now]

    def _seat(self, places: Sequence[Seat], plan: RunPlan) -> list[RemoteHost]:
        """One actor for each place; those that are there already, with their zygotes, stay.

        Returns those that are new.
        """
        before = {(host.node.id, host.ranks): host for host in self._hosts}
        kept = [before.pop((seat.node.id, seat.ranks), None) for seat in places]
        self._let_go(list(before.values()))
        self._hosts = [
            host or RemoteHost(seat, self._need, plan=plan)
            for host, seat in zip(kept, places, strict=True)
        ]
        return [host for host in self._hosts if host not in kept]

    def _let_go(self, hosts: Iterable[RemoteHost]) -> None:
        gone = list(hosts)
        self._hosts = [host for host in self._hosts if host not in gone]
        for host in gone:
            host.close()

    def _follow(
        self, attempt: Attempt, coordination: Coordination, outlook: "_Outlook", stop: StopRequest
    ) -> AttemptEnd:
        """The end of the attempt, once every rank is gone."""
        hosts = list(self._hosts)
        fleet = cluster.Fleet(hosts)
        fleet.send(coordination.begin())
        asked = False
        while not coordination.over:
            better = "" if asked else outlook.better_elsewhere()
            if better:
                _append_event(attempt, "moving", reason=better)
            if not asked and (better or stop.graceful.is_set()):
                asked = True
                fleet.send(coordination.stop())
            poll_s = _POLL_DYING_S if coordination.dying else _POLL_S
            for number, said in fleet.news(timeout_s=poll_s):
                now = time.monotonic()
                if isinstance(said, HostLostError):
                    fleet.send(coordination.lose(number, str(said), now=now))
                elif isinstance(said, Growth):
                    _take_down(attempt, said)
                else:
                    fleet.send(coordination.hear(number, said, now=now))
            fleet.send(coordination.tick(now=time.monotonic()))
        end = coordination.end()
        if attempt.run_dir.folder:
            end = _stored(end, *fleet.settle())
        self._let_go(hosts[number] for number in fleet.lost)
        to_resize = end.status == "stopped" and asked and not stop.graceful.is_set()
        return end.model_copy(update={"to_resize": to_resize})


class _Outlook:
    """Whether a run would do better on other hosts than it has; looked at now and then."""

    def __init__(
        self,
        nodes: Callable[[], list[Node]],
        need: Need,
        *,
        places: Sequence[Seat],
        sizes: Sequence[int],
    ) -> None:
        self._nodes = nodes
        self._need = need
        self._own = {seat.node.id: seat.node.address for seat in places}
        self._larger = [size for size in sizes if size > sum(seat.ranks for seat in places)]
        self._next_look = time.monotonic() + _LOOK_S
        self._seen = 0

    def better_elsewhere(self) -> str:
        """Why it would; room must be seen twice: what frees for a moment is none."""
        if time.monotonic() < self._next_look:
            return ""
        self._next_look = time.monotonic() + _LOOK_S
        if leaving := cluster.draining() & self._own.keys():
            return f"Ray is about to take away {', '.join(self._own[node] for node in leaving)}"
        if not self._larger:
            return ""
        before, self._seen = self._seen, largest(self._larger, self._nodes(), self._need)
        return f"there is room for {self._seen} ranks" if before and self._seen else ""


def _take_down(attempt: Attempt, growth: Growth) -> None:
    """Puts what rank 0 wrote on its host where the driver's own files of the run are."""
    path = attempt.run_dir.local(growth.name)
    with storage_errors(str(path)), path.open("ab", buffering=0) as file:
        file.write(growth.text.encode())


def _stored(end: AttemptEnd, trouble: str, lost: str) -> AttemptEnd:
    """The end of an attempt, unless it ended well and not all of it was stored."""
    if end.failure or not (trouble or lost):
        return end
    if lost:
        message = f"host {lost} was lost before all that it had was stored"
        return AttemptEnd(status="failed", failure=Failure(kind="lost", message=message, rank=0))
    return AttemptEnd(status="failed", failure=Failure(kind="storage", message=trouble, rank=0))


def _starts(attempt: Attempt, plan: RunPlan, places: Sequence[Seat], *, token: str) -> list[Start]:
    return [
        Start(
            plan=plan,
            run_dir=attempt.run_dir.url,
            number=attempt.number,
            checkpoint=attempt.checkpoint,
            first_rank=seat.first_rank,
            ranks=seat.ranks,
            address=places[0].node.address,
            port=0,
            token=token,
        )
        for seat in places
    ]


def _tell_placed(attempt: Attempt, places: Sequence[Seat]) -> None:
    hosts = [
        {"host": seat.node.address, "first_rank": seat.first_rank, "ranks": seat.ranks}
        for seat in places
    ]
    world_size = sum(seat.ranks for seat in places)
    _append_event(attempt, "placed", world_size=world_size, hosts=hosts)


def _append_event(attempt: Attempt, event: str, **values: Any) -> None:
    attempt.run_dir.append(
        rundir.EVENTS,
        {"time": time.time(), "event": event, "attempt": attempt.number, **values},
    )
