"""What of a model and its optimizer a checkpoint holds, and how it is put back.

Tensors go by name into safetensors, numbers into JSON; files and their moments are `saving`'s.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from launcher.errors import SpecError

_SCHEDULED = {"params", "lr", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}
"""Group values that the schedule, which is replayed, or the plan decides."""
_PLAIN = (bool, int, float, str, tuple, list, type(None))
Groups = list[dict[str, Any]]


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: the live ones."""
    return {name: v for name, v in model.state_dict().items() if isinstance(v, Tensor)}


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


def volatile_names(model: nn.Module, optimizer: Optimizer) -> frozenset[str]:
    """The model's tensors that something else than the optimizer step may change.

    Buffers, parameters that the optimizer does not have (a momentum encoder's), and embeddings
    whose forward renormalises rows.
    """
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    renormed = (nn.Embedding, nn.EmbeddingBag)
    trained -= {m.weight for m in model.modules() if isinstance(m, renormed) and m.max_norm}
    steady = {n for n, p in model.named_parameters(remove_duplicate=False) if p in trained}
    return frozenset(model_tensors(model).keys() - steady)


def parameter_names(model: nn.Module, optimizer: Optimizer) -> dict[Tensor, str]:
    """In the order in which the optimizer counts its parameters."""
    named: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {p: named[p] for group in optimizer.param_groups for p in group["params"]}


def moments(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's tensors, as `<parameter>.<moment>`: the live ones."""
    return {
        f"{names[p]}.{key}": value
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


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
    state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in rest.items()}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(".")
        state.setdefault(name, {})[moment] = tensor
    fresh = optimizer.state_dict()
    fresh["state"] = {i: state[name] for i, name in enumerate(names.values()) if name in state}
    for group, changed in zip(fresh["param_groups"], groups, strict=False):
        group.update(_as_before(changed, group))
    optimizer.load_state_dict(fresh)
    for p, name in names.items():  # which has cast moments to the type of their parameter
        for moment, value in state.get(name, {}).items():
            if isinstance(value, Tensor) and optimizer.state[p][moment].dtype != value.dtype:
                optimizer.state[p][moment] = value.to(p.device)


def _as_before(changed: Mapping[str, Any], group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """JSON knows no tuples."""
    for key, value in changed.items():
        yield key, tuple(value) if isinstance(group.get(key), tuple) else value
