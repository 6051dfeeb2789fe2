"""`launcher.strategies.recomputation`: the same numbers, whatever is kept for backward."""

import copy

import pytest
import torch
from torch import Tensor, nn

from launcher.errors import SpecError
from launcher.strategies.recomputation import recompute
from tests.toy import Net


def trained(*, classes: tuple[str, ...]) -> tuple[nn.Sequential, Tensor, list[type[nn.Module]]]:
    """A model with dropout after one backward, its loss, and which modules computed in a row."""
    torch.manual_seed(0)
    model = nn.Sequential(Net(), nn.Linear(2, 4), Net())
    computed: list[type[nn.Module]] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, _args, _out: computed.append(type(module)))
    recompute(model, classes)
    torch.manual_seed(1)
    loss = model(torch.randn(5, 4)).square().mean()
    loss.backward()
    return model, loss, computed


def test_loss_and_gradients_are_bit_for_bit_those_without_also_with_dropout() -> None:
    model, loss, _ = trained(classes=("tests.toy:Net",))
    plain, plain_loss, _ = trained(classes=())
    assert torch.equal(loss, plain_loss)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_what_is_in_a_module_of_the_class_computes_twice_and_nothing_else() -> None:
    _, _, plain = trained(classes=())
    _, _, recomputed = trained(classes=("tests.toy:Net",))
    assert plain.count(nn.Dropout) == 2
    assert recomputed.count(nn.Dropout) == 4
    _, _, elsewhere = trained(classes=("torch.nn:Linear",))
    assert elsewhere.count(nn.Dropout) == 2


def test_a_class_that_the_model_has_not_is_an_error_of_the_spec() -> None:
    with pytest.raises(SpecError, match=r"the model has no torch\.nn:Conv2d"):
        recompute(nn.Linear(2, 2), ("torch.nn:Conv2d",))


def test_batch_norm_counts_a_batch_once() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    recomputed = copy.deepcopy(plain)
    recompute(recomputed, ["torch.nn:Conv2d", "torch.nn:BatchNorm2d"])
    images = torch.randn(2, 3, 8, 8)
    for model in (plain, recomputed):
        model(images).sum().backward()
    assert all(
        torch.equal(one, other)
        for one, other in zip(plain.buffers(), recomputed.buffers(), strict=True)
    )


def test_what_is_no_class_of_the_model_is_told_with_those_that_are() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(SpecError, match=r"the model has no torch\.nn:Conv2d; it has .*:Linear"):
        recompute(model, ["torch.nn:Conv2d"])
    with pytest.raises(SpecError, match=r"torch:tanh is no class of modules"):
        recompute(model, ["torch:tanh"])
