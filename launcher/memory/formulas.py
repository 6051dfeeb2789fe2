"""What DDP and each stage of ZeRO keep on a rank, from what was measured of a job: arithmetic only.

The sums are those of the ZeRO paper (arXiv:1910.02054, section 3 and figure 1) with what DeepSpeed
0.19.8 keeps beside, in deepspeed/runtime:
zero/stage_1_and_2.py: flat weights and master partition 492-560, reduction 1414-1480 and
    2205-2282, step 3013-3170, buckets 3256-3280
zero/stage3.py: buckets and flat gradients 780-800, flat weights 940-960, master weights 1158-1172,
    step 2684-2705
zero/partitioned_param_coordinator.py: how long weights stay gathered 620-660
comm/coalesced_collectives.py: the flat copy of gradients 122
engine.py: stage 0 3073-3100 and 3796-3835
DDP's gradients are its buckets (`gradient_as_bucket_view`). All sizes are bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from launcher.memory.needs import Measured, Need, Parts, Setting

STRATEGIES = ("ddp", "zero-0", "zero-1", "zero-2", "zero-3")
"""In the order of what they split over the ranks."""
_MASTER = 4
_HALF = 2
_STAGE_0_BUCKET = 500_000_000
_DEFAULTS = {
    "reduce_bucket_size": 500_000_000,
    "prefetch_bucket_size": 50_000_000,
    "param_persistence_threshold": 100_000,
    "max_live_parameters": 1_000_000_000,
    "max_reuse_distance": 1_000_000_000,
    "sub_group_size": 1_000_000_000,
}
"""Elements (deepspeed/runtime/zero/config.py)."""


def need_of(strategy: str, measured: Measured, setting: Setting) -> Need:
    """A rank's need with one of `STRATEGIES`."""
    if strategy == "ddp":
        return _need_of_ddp(measured, setting)
    return _need_of_zero(measured, setting, stage=int(strategy.removeprefix("zero-")))


def _need_of_ddp(measured: Measured, setting: Setting) -> Need:
    """Every rank has everything; rank 0 copies all of it for a checkpoint."""
    sizes = _Sizes(measured, setting, half=False)
    keeps_gradients = setting.world_size > 1 or setting.accumulates
    moments = [
        *(
            sizes.moment(sizes.gradients if keeps_gradients else produced, activations)
            for produced, activations in sizes.backward()
        ),
        sizes.moment(sizes.gradients, measured.update_bytes),
    ]
    return sizes.need("ddp", moments, checkpoint=sizes.parameters + sizes.state)


def _need_of_zero(measured: Measured, setting: Setting, *, stage: int) -> Need:
    """A rank of DeepSpeed's engine with that stage of ZeRO."""
    sizes = _Sizes(measured, setting, half=setting.half)
    match stage:
        case 0:
            moments = list(_stage_0(sizes))
            checkpoint = sizes.parameters + sizes.state
        case 1 | 2:
            moments = list(_stage_1_and_2(sizes, splits_gradients=stage == 2))
            checkpoint = sizes.master_share + sizes.state_share
        case _:
            moments = list(_stage_3(sizes))
            checkpoint = sizes.master_share + sizes.state_share
    return sizes.need(
        f"zero-{stage}",
        moments,
        checkpoint=checkpoint,
        offloaded=_offloaded(sizes, stage=stage) if stage else 0,
    )


@dataclass(frozen=True)
class _Sizes:
    """The sizes that the formulas are made of."""

    measured: Measured
    setting: Setting
    half: bool

    @property
    def elements(self) -> int:
        return sum(self.measured.trainable)

    @property
    def weight(self) -> int:
        """Bytes of a weight, and of its gradient."""
        own = self.measured.trainable_bytes // max(1, self.elements)
        return _HALF if self.half else own

    @property
    def gradients(self) -> int:
        return self.elements * self.weight

    @property
    def parameters(self) -> int:
        frozen = self.measured.frozen_bytes + self.measured.buffer_bytes
        return self.elements * self.weight + frozen

    @property
    def state(self) -> int:
        """Of the optimizer, over weights as wide as it is given."""
        width = max(_MASTER, self.weight) if self.half else self.weight
        per_byte = self.measured.optimizer_bytes / max(1, self.measured.trainable_bytes)
        return round(self.elements * width * per_byte)

    def share(self, size: int) -> int:
        return -(-size // self.setting.world_size)

    @property
    def master_share(self) -> int:
        return self.share(self.elements) * _MASTER

    @property
    def state_share(self) -> int:
        per_byte = self.measured.optimizer_bytes / max(1, self.measured.trainable_bytes)
        return round(self.master_share * per_byte)

    @property
    def gradient_share(self) -> int:
        return self.share(self.elements) * self.weight

    @property
    def update_share(self) -> int:
        return self.share(self.measured.update_bytes)

    def configured(self, name: str) -> int:
        """Elements, as configured under either of DeepSpeed's names."""
        zero = self.setting.zero
        return int(zero.get(name, zero.get(f"stage3_{name}", _DEFAULTS[name])))

    @property
    def bucket(self) -> int:
        return self.configured("reduce_bucket_size") * self.weight

    @property
    def filled(self) -> int:
        """The most of a bucket that is used."""
        return min(self.bucket, self.gradients)

    @property
    def reserved(self) -> int:
        """A GPU gives memory when it is asked for, a CPU when it is first written."""
        return self.bucket if self.setting.on_gpu else self.filled

    def offloads(self, what: str) -> bool:
        device = (self.setting.zero.get(what) or {}).get("device", "none")
        return bool(device != "none")

    def backward(self) -> Iterator[tuple[int, int]]:
        """(gradients that there are, activations beside them)."""
        for share, activations in self.measured.profile:
            yield round(share * self.gradients), activations

    def moment(self, gradients: int, activations: int, *, buckets: int = 0) -> Parts:
        """Where nothing is split."""
        return Parts(self.parameters, gradients, self.state, activations, buckets)

    def need(
        self, strategy: str, moments: list[Parts], *, checkpoint: int, offloaded: int = 0
    ) -> Need:
        if not self.setting.on_gpu:
            moments = _kept_by_the_allocator(moments)
        return Need(
            strategy=strategy,
            device=max(moments, key=lambda parts: parts.total),
            offloaded=offloaded,
            checkpoint=checkpoint,
            process=self.measured.process_bytes,
        )


def _kept_by_the_allocator(moments: list[Parts]) -> list[Parts]:
    """What a CPU's process had of activations, and of weights gathered one by one, it still has.

    glibc gives pieces of less than 32 MiB back only from the end of its heap (mallopt(3),
    M_MMAP_THRESHOLD). Flat buffers are larger, and are given back.
    """
    parameters = max(parts.parameters for parts in moments)
    activations = max(parts.activations for parts in moments)
    return [replace(m, parameters=parameters, activations=activations) for m in moments]


def _stage_0(sizes: _Sizes) -> Iterator[Parts]:
    """Gradients are flattened into a copy that is summed over ranks, then copied back.

    In half precision a master copy of the weights, and one of the gradients during the step.
    """
    masters = sizes.elements * _MASTER if sizes.half else 0
    copy = min(sizes.gradients, _STAGE_0_BUCKET * sizes.weight)
    for produced, activations in sizes.backward():
        held = sizes.gradients if sizes.setting.accumulates else produced
        yield _with_optimizer(sizes.moment(held, activations), masters)
    yield _with_optimizer(sizes.moment(sizes.gradients, 0, buckets=copy), masters)
    update = sizes.moment(sizes.gradients + masters, sizes.measured.update_bytes)
    yield _with_optimizer(update, masters)


def _with_optimizer(parts: Parts, more: int) -> Parts:
    return replace(parts, optimizer=parts.optimizer + more)


def _stage_1_and_2(sizes: _Sizes, *, splits_gradients: bool) -> Iterator[Parts]:
    """Weights lie in one flat buffer; the optimizer has a master copy of this rank's share.

    A gradient is copied into a bucket; a full one is summed over the ranks in a flat copy, and
    this rank's share of it is kept. Stage 2 does so during backward, stage 1 at its end.
    """
    offloads = sizes.offloads("offload_optimizer")
    optimizer = 0 if offloads else sizes.master_share + sizes.state_share
    kept = 0 if offloads else sizes.gradient_share
    passing = max(sizes.measured.trainable, default=0) * sizes.weight if offloads else 0
    accumulated = kept if splits_gradients and sizes.setting.accumulates else 0

    def moment(gradients: int, activations: int, buckets: int) -> Parts:
        return Parts(sizes.parameters, gradients, optimizer, activations, buckets + passing)

    for produced, activations in sizes.backward():
        if not splits_gradients:
            held = sizes.gradients if sizes.setting.accumulates else produced
            yield moment(held, activations, sizes.reserved if sizes.setting.on_gpu else 0)
        elif produced > sizes.bucket:
            yield moment(kept + accumulated, activations, sizes.reserved + sizes.filled)
        else:
            bucket = sizes.reserved if sizes.setting.on_gpu else produced
            yield moment(accumulated, activations, bucket)
    if splits_gradients:
        yield moment(kept + accumulated, 0, sizes.reserved + sizes.filled)
    else:
        yield moment(sizes.gradients + kept, 0, sizes.reserved)
    if not offloads:
        widened = sizes.master_share if sizes.half else 0
        yield moment(2 * kept + widened, 0, 0)
        yield moment(sizes.master_share, sizes.update_share, 0)


def _stage_3(sizes: _Sizes) -> Iterator[Parts]:
    """A rank has its share of the weights, and for a while those that it computes with.

    Gathered weights are kept while they are needed again within `max_reuse_distance`, which of
    models below a thousand million parameters are all of them, until their gradient is done.
    """
    measured = sizes.measured
    offloads = sizes.offloads("offload_optimizer")
    aliased = not sizes.half and not offloads and not sizes.offloads("offload_param")
    masters = 0 if aliased or offloads else sizes.master_share
    optimizer = masters + (0 if offloads else sizes.state_share)
    whole = sizes.elements * sizes.weight + measured.frozen_bytes
    weights = 0 if sizes.offloads("offload_param") else sizes.share(whole)
    longest = min(sizes.configured("max_live_parameters"), sizes.configured("max_reuse_distance"))
    threshold = sizes.configured("param_persistence_threshold")
    staying = sum(n for n in measured.trainable if n <= threshold) * sizes.weight
    fetched = min(whole, sizes.configured("prefetch_bucket_size") * sizes.weight)
    kept = 0 if offloads else sizes.gradient_share
    on_gpu = sizes.setting.on_gpu
    for produced, activations in (*sizes.backward(), (sizes.gradients, 0)):
        ahead = whole - produced
        reduces = produced >= min(sizes.bucket, sizes.gradients)
        copies = sizes.filled * (1 if on_gpu else 2) if reduces else 0  # gloo makes one more
        yield Parts(
            parameters=weights
            + measured.buffer_bytes
            + max(staying, min(ahead, longest * sizes.weight)),
            gradients=kept,
            optimizer=optimizer,
            activations=activations,
            buckets=sizes.reserved + copies + fetched,  # what the last fetch came in stays
        )
    if not offloads:
        group = min(sizes.share(sizes.elements), sizes.configured("sub_group_size"))
        yield Parts(
            parameters=weights + measured.buffer_bytes + staying,
            gradients=kept + group * (sizes.weight + (_MASTER if sizes.half else 0)),
            optimizer=optimizer,
            activations=sizes.update_share,
            buckets=sizes.reserved + sizes.filled,  # the flat copy of gradients is there still
        )


def _offloaded(sizes: _Sizes, *, stage: int) -> int:
    """Master weights, their gradients and the optimizer's state; weights of this rank's share."""
    total = 0
    if _to_host(sizes, "offload_optimizer"):
        total += 2 * sizes.master_share + sizes.state_share + sizes.gradient_share
    if stage == 3 and _to_host(sizes, "offload_param"):
        total += sizes.gradient_share
    return total


def _to_host(sizes: _Sizes, what: str) -> bool:
    return bool((sizes.setting.zero.get(what) or {}).get("device") == "cpu")
