"""A GAN as an arm of a sweep: two networks, two optimisers, a loop of its own. Nothing of it is imported by the sweep.

python train_gan.py --lr 1e-3 --width 64 --slope 0.2       by hand: it trains on digits and prints what it reports
"""

import argparse
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from aiqn_core.report import report

LATENT, BATCH = 16, 64
CHECKPOINT = Path("gan.pt")  # in the folder of the trial, where the command is started, and started again


def layers(sizes: list[int], slope: float) -> nn.Sequential:
    """Linear maps from each size to the next, with leaky rectifiers between them."""
    pairs = [[nn.Linear(a, b), nn.LeakyReLU(slope)] for a, b in pairwise(sizes)]
    return nn.Sequential(*[layer for pair in pairs for layer in pair][:-1])


def main() -> None:
    """Train to AIQN_STEPS; at each step of AIQN_EVALUATE report AIQN_SAMPLES samples, and save everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--slope", type=float, required=True)
    options = parser.parse_args()

    # What the sweep tells; outside of one, digits and a few steps.
    steps = int(os.environ.get("AIQN_STEPS", 200))
    asked = {int(step) for step in os.environ.get("AIQN_EVALUATE", str(steps)).split(",")}
    count, seed = int(os.environ.get("AIQN_SAMPLES", 64)), int(os.environ.get("AIQN_SEED", 0))
    torch.set_num_threads(int(os.environ.get("AIQN_THREADS", 1)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if "AIQN_TRAIN" in os.environ:
        images = torch.from_numpy(np.load(os.environ["AIQN_TRAIN"]))  # uint8 (N, C, H, W)
    else:
        from aiqn_core.config import DataConfig
        from aiqn_core.data import load_data

        images = load_data(DataConfig("digits")).train
    shape = images.shape[1:]
    real = (images.flatten(1).float() / 127.5 - 1).to(device)  # (N, D) in [-1, 1]

    torch.manual_seed(seed)
    generator = nn.Sequential(layers([LATENT, options.width, options.width, real.shape[1]], options.slope), nn.Tanh())
    critic = layers([real.shape[1], options.width, options.width, 1], options.slope)
    networks = nn.ModuleDict({"generator": generator, "critic": critic}).to(device)
    optimizers = [torch.optim.Adam(net.parameters(), lr=options.lr, betas=(0.5, 0.99)) for net in (generator, critic)]

    begin = 0
    if CHECKPOINT.exists():  # stopped, or killed: go on from there
        state = torch.load(CHECKPOINT, weights_only=True)
        networks.load_state_dict(state["networks"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        begin = state["step"]

    ones, zeros = torch.ones(BATCH, 1, device=device), torch.zeros(BATCH, 1, device=device)
    for step in range(begin + 1, steps + 1):
        chance = torch.Generator().manual_seed(seed * 1_000_003 + step)  # so that a resumed training is the same
        batch = real[torch.randint(len(real), (BATCH,), generator=chance).to(device)]
        fake = generator(torch.randn(BATCH, LATENT, generator=chance).to(device))

        critic_loss = cross_entropy(critic(batch), ones) + cross_entropy(critic(fake.detach()), zeros)
        optimizers[1].zero_grad()
        critic_loss.backward()
        optimizers[1].step()

        loss = cross_entropy(critic(fake), ones)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()

        if step in asked:
            with torch.no_grad():
                noise = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed)).to(device)
                samples = ((generator(noise) + 1) * 127.5).round().to(torch.uint8).cpu().reshape(count, *shape)
            # The checkpoint last: what is reported twice is counted once, what is never reported is missed.
            report(step, samples=samples, loss=loss.item(), critic_loss=critic_loss.item())
            saved = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({"step": step, "networks": networks.state_dict(), "optimizers": saved}, "gan.tmp")
            Path("gan.tmp").replace(CHECKPOINT)


if __name__ == "__main__":
    main()
