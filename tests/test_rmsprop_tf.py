import pytest
import torch

from aiqn_core.rmsprop_tf import RMSpropTF


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_each_step_follows_the_update_rule_by_hand(momentum):
    gradients = torch.randn(7, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rates = [0.1, 0.1, 0.03, 0.03, 0.01, 0.01, 0.01]
    parameter = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = RMSpropTF([parameter], lr=1.0, alpha=0.8, momentum=momentum, eps=1e-3, initial_accumulator=1.0)
    weight, square, buffer = [0.0] * 5, [1.0] * 5, [0.0] * 5
    for rate, row in zip(rates, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = row.clone()
        optimizer.step()
        for i, g in enumerate(row.tolist()):
            square[i] = 0.8 * square[i] + 0.2 * g * g
            buffer[i] = momentum * buffer[i] + rate * g / (square[i] + 1e-3) ** 0.5
            weight[i] -= buffer[i]
    assert torch.allclose(parameter, torch.tensor(weight, dtype=torch.float64), rtol=1e-12, atol=0)


def test_it_is_pytorchs_where_the_differences_vanish():
    torch.manual_seed(0)
    start = torch.randn(11, dtype=torch.float64)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    optimizers = [
        RMSpropTF([ours], lr=0.01, alpha=0.9, momentum=0.5, eps=1e-30, initial_accumulator=0.0),
        torch.optim.RMSprop([theirs], lr=0.01, alpha=0.9, momentum=0.5, eps=1e-30),
    ]
    for _ in range(13):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (parameter.sin() * parameter).sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=0)


def test_its_state_survives_a_round_trip():
    def some_steps(parameter, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (parameter**4).sum().backward()
            optimizer.step()

    whole = torch.full((3,), 2.0, requires_grad=True)
    some_steps(whole, RMSpropTF([whole], lr=0.1, momentum=0.9), 9)
    first = torch.full((3,), 2.0, requires_grad=True)
    optimizer = RMSpropTF([first], lr=0.1, momentum=0.9)
    some_steps(first, optimizer, 4)
    second = first.detach().clone().requires_grad_()
    restored = RMSpropTF([second], lr=0.1, momentum=0.9)
    restored.load_state_dict(optimizer.state_dict())
    some_steps(second, restored, 5)
    assert torch.equal(second, whole)
