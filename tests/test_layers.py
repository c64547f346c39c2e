"""Layers against loops over single taps and pixels."""

import pytest
import torch
from torch import Tensor

from aiqn_core.layers import GatedBlock, MaskedConv, Streams, colour_groups, colour_mask, convolve, gate


@pytest.mark.parametrize(
    ("planes", "colours", "sizes"),
    [
        (128, 3, [43, 43, 42]),
        (8, 3, [3, 3, 2]),
        (16, 3, [6, 5, 5]),
        (7, 1, [7]),
        (6, 4, [2, 2, 1, 1]),
        (3, 3, [1, 1, 1]),
    ],
)
def test_colour_groups(planes: int, colours: int, sizes: list[int]):
    assert colour_groups(planes, colours).tolist() == [c for c, size in enumerate(sizes) for _ in range(size)]


def test_fewer_planes_than_colours():
    with pytest.raises(ValueError, match="saw 2 planes for 3 colours"):
        colour_groups(2, 3)


def test_colour_mask():
    out, inp = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2])
    before = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]]
    own = [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert colour_mask(out, inp, "before").int().tolist() == before
    assert colour_mask(out, inp, "own").int().tolist() == own
    assert torch.equal(colour_mask(out, inp, "upto"), colour_mask(out, inp, "before") | colour_mask(out, inp, "own"))
    assert colour_mask(out, inp, "all").all()


def test_masked_conv_masks_only_the_last_tap_and_its_gradient():
    groups = colour_groups(7, 3)
    conv = MaskedConv(groups, groups.repeat(2), "before", (1, 3), (2, 0, 0, 0))
    x = torch.randn(2, 7, 5, 4)
    conv(x).square().sum().backward()
    assert conv.weight.grad is not None
    live = conv.weight.grad != 0
    expected = torch.ones(14, 7, 1, 3, dtype=torch.bool)
    expected[:, :, 0, 2] = groups[None, :] < groups.repeat(2)[:, None]
    assert torch.equal(live, expected)


def test_initial_weights_have_the_scale_of_the_taps_that_are_read():
    torch.manual_seed(0)
    groups = colour_groups(200, 3)
    conv = MaskedConv(groups, groups, "upto", (1, 1))
    for colour in range(3):
        rows = conv.masked_weight()[groups == colour].flatten(1)
        read = int((groups <= colour).sum())
        assert rows.square().sum(1).mean().item() == pytest.approx(1, rel=0.1)
        assert (rows != 0).sum(1).eq(read).all()


def test_query_reads_itself_on_its_own_colour_only():
    torch.manual_seed(0)
    groups = colour_groups(8, 3)
    conv = MaskedConv(groups, groups, "upto", (1, 3), (2, 0, 0, 0)).double()
    context, query = torch.randn(2, 2, 8, 3, 5, dtype=torch.float64)
    out = convolve(conv, Streams(context, query)).query
    for colour in range(3):
        mixed = context.clone()
        mixed[:, groups == colour] = query[:, groups == colour]
        # the left columns stay context: compute the own column from the mixture, the others from the context
        left = conv.masked_weight().clone()
        centre = left.clone()
        left[..., -1], centre[..., :-1] = 0, 0
        padded = [torch.nn.functional.pad(x, (2, 0, 0, 0)) for x in (context, mixed)]
        expected = torch.nn.functional.conv2d(padded[0], left, conv.bias)
        expected = expected + torch.nn.functional.conv2d(padded[1], centre)
        torch.testing.assert_close(out[:, groups == colour], expected[:, groups == colour])


def slow_block(block: GatedBlock, v: Tensor, h: Tensor, tau: Tensor | None, label: Tensor) -> tuple[Tensor, Tensor]:
    """The block pixel by pixel and tap by tap, for one image (planes, height, width), kernel 5."""
    height, width, twice = v.shape[1], v.shape[2], len(block.v.bias)
    above, before = torch.zeros(2, twice, height, width, dtype=v.dtype)
    for r in range(height):
        for c in range(width):
            total = block.v.bias + block.label_v.weight[label]
            for i in range(3):
                for j in range(5):
                    row, column = r - 2 + i - (1 if block.first else 0), c - 2 + j
                    if row >= 0 and 0 <= column < width:
                        total = total + block.v.weight[:, :, i, j] @ v[:, row, column]
            if block.tau_v is not None and r > 0:
                total = total + block.tau_v.weight[:, :, 0, 0] @ tau[:, r - 1, c]
            above[:, r, c] = total
            total = block.link.weight[:, :, 0, 0] @ total + block.link.bias
            total = total + block.h.bias + block.label_h.weight[label]
            for j in range(3):
                if c - 2 + j >= 0:
                    total = total + block.h.masked_weight()[:, :, 0, j] @ h[:, r, c - 2 + j]
            if block.tau_h is not None:
                total = total + block.tau_h.masked_weight()[:, :, 0, 0] @ tau[:, r, c]
            before[:, r, c] = total
    planes = twice // 2
    gated = torch.tanh(before[:planes]) * torch.sigmoid(before[planes:])
    residual = torch.einsum("oi,ihw->ohw", block.res.masked_weight()[:, :, 0, 0], gated) + block.res.bias[:, None, None]
    return torch.tanh(above[:planes]) * torch.sigmoid(above[planes:]), residual + (0 if block.first else h)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("tau_mode", [None, "causal", "paper"])
def test_gated_block_is_the_slow_block(first: bool, tau_mode):
    torch.manual_seed(0)
    image, colour = torch.arange(3), colour_groups(5, 3)
    block = GatedBlock(
        image if first else colour, colour, colours=3, kernel=5, first=first, tau_mode=tau_mode, num_classes=4
    ).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    v, h = torch.randn(2, 2, 3 if first else 5, 4, 7, dtype=torch.float64)
    tau = torch.randn(2, 3, 4, 7, dtype=torch.float64) if tau_mode else None
    label = torch.tensor([3, 1])
    with torch.no_grad():
        out = block(v, Streams(h), tau, label)
        for n in range(2):
            expected = slow_block(block, v[n], h[n], None if tau is None else tau[n], label[n])
            torch.testing.assert_close(out.v[n], expected[0])
            torch.testing.assert_close(out.h.context[n], expected[1])


def test_gate():
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(gate(x)[1, 2, 3, 4], torch.tanh(x[1, 2, 3, 4]) * torch.sigmoid(x[1, 5, 3, 4]))


def test_full_precision_survives_autocast():
    """bfloat16 cannot tell 0.999 from 1: the tau of a tail must not go through it."""
    colours = torch.arange(3)
    exact = MaskedConv(colours, colours, "own", bias=False, full_precision=True)
    tau = torch.tensor([0.999, 1.0])[:, None, None, None].expand(2, 3, 1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = exact(tau)
    assert out.dtype == torch.float32
    assert not torch.equal(out[0], out[1])
