"""What of a model and its optimizer a checkpoint holds, and how it is put back.

Tensors go by name into safetensors, numbers into JSON; files and their moments are `saving`'s.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import SpecError
from launcher.tensor_files import Part

_SCHEDULED = {"params", "lr", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}
"""Group values that the schedule, which is replayed, or the plan decides."""
_PLAIN = (bool, int, float, str, tuple, list, type(None))
Groups = list[dict[str, Any]]


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, the live ones; of those that are tied the first name."""
    others = aliases(model)
    return {name: v for name, v in named_tensors(model).items() if name not in others}


def aliases(model: nn.Module) -> dict[str, str]:
    """The further names of weights that are tied, each with the first one."""
    owners: dict[Any, str] = {}
    found: dict[str, str] = {}
    for name, tensor in named_tensors(model).items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        owner = owners.setdefault(place if tensor.numel() else id(tensor), name)
        if owner != name:
            found[name] = owner
    return found


def with_aliases(tensors: Mapping[str, Tensor], others: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by all of their names."""
    return {**tensors, **{name: tensors[owner] for name, owner in others.items()}}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names, the very ones that the model has."""
    named = model.state_dict(keep_vars=True)
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    """Tensors of which this rank holds all."""
    return {
        name: Part(values=tensor, shape=tuple(tensor.shape), begin=0)
        for name, tensor in tensors.items()
    }


def extra_state(model: nn.Module) -> dict[str, Any]:
    """What modules add by `get_extra_state` that is no tensor; SpecError when it is no JSON."""
    extra = {name: v for name, v in model.state_dict().items() if not isinstance(v, Tensor)}
    return {name: _as_json(value, name=name) for name, value in extra.items()}


def _as_json(value: Any, *, name: str) -> Any:
    with contextlib.suppress(TypeError, ValueError):
        if (kept := json.loads(json.dumps(value))) == value:
            return kept
    raise SpecError(
        f"the model's {name} is a {type(value).__name__} that a checkpoint cannot hold; let "
        "get_extra_state return a tensor, or what JSON can say"
    )


def volatile_names(model: nn.Module, trained: Set[Tensor]) -> frozenset[str]:
    """The model's tensors that something else than the optimizer step may change.

    Buffers, parameters that the optimizer does not have (a momentum encoder's), and embeddings
    whose forward renormalises rows.
    """
    renormed = (nn.Embedding, nn.EmbeddingBag)
    moved = {m.weight for m in model.modules() if isinstance(m, renormed) and m.max_norm}
    steady = trained - moved
    return frozenset(name for name, v in named_tensors(model).items() if v not in steady)


def parameter_names(model: nn.Module, optimizer: Optimizer) -> dict[Tensor, str]:
    """In the order in which the optimizer counts its parameters."""
    named: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {p: named[p] for group in optimizer.param_groups for p in group["params"]}


def moments(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's tensors, by `moment_name`: the live ones."""
    return {
        moment_name(names[p], key): value
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def moment_name(parameter: str, moment: str) -> str:
    """What a checkpoint calls a tensor that the optimizer keeps for a parameter."""
    return f"{parameter}.{moment}"


def by_parameter(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Saved moments by the name of their parameter, and their own."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(".")
        found.setdefault(name, {})[moment] = tensor
    return found


def numbers(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, dict[str, Any]]:
    """The rest of what the optimizer knows of each parameter."""
    return {
        names[p]: {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        for p, state in optimizer.state.items()
    }


def group_values(optimizer: Optimizer) -> Groups:
    """The values of each parameter group that no schedule sets."""
    return [
        {k: v for k, v in group.items() if k not in _SCHEDULED and isinstance(v, _PLAIN)}
        for group in optimizer.param_groups
    ]


def changed_values(optimizer: Optimizer, built: Groups) -> Groups:
    """Those that the optimizer itself has changed since it was built, as some count steps there."""
    return [
        {key: value for key, value in now.items() if value != before.get(key)}
        for now, before in zip(group_values(optimizer), built, strict=True)
    ]


def restore_optimizer(
    optimizer: Optimizer,
    names: Mapping[Tensor, str],
    *,
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
) -> None:
    """Puts saved moments in place, bit for bit; hyperparameters stay as the plan has them."""
    saved = by_parameter(tensors)
    state = {n: {**rest.get(n, {}), **saved.get(n, {})} for n in {**rest, **saved}}
    fresh = optimizer.state_dict()
    fresh["state"] = {i: state[name] for i, name in enumerate(names.values()) if name in state}
    optimizer.load_state_dict(fresh)
    restore_groups(optimizer, groups)
    for p, name in names.items():  # which has cast moments to the type of their parameter
        for moment, value in state.get(name, {}).items():
            if isinstance(value, Tensor) and optimizer.state[p][moment].dtype != value.dtype:
                optimizer.state[p][moment] = value.to(p.device)


def restore_groups(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Puts back what the optimizer itself had changed in its groups."""
    for group, changed in zip(optimizer.param_groups, groups, strict=False):
        group.update(_as_before(changed, group))


def _as_before(changed: Mapping[str, Any], group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """JSON knows no tuples."""
    for key, value in changed.items():
        yield key, tuple(value) if isinstance(group.get(key), tuple) else value
