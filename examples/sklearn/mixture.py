"""A Gaussian mixture of scikit-learn as an arm of a sweep: no torch, one step is one iteration of EM.

python mixture.py full 7 1e-3
"""

import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

covariance, components, floor = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
train = np.load(os.environ["AIQN_TRAIN"])  # vectors (N, D), or uint8 images (N, C, H, W)
examples = train.reshape(len(train), -1)
count, seed = int(os.environ["AIQN_SAMPLES"]), int(os.environ["AIQN_SEED"])
asked = [int(step) for step in os.environ["AIQN_EVALUATE"].split(",")]  # where samples are wanted

warnings.simplefilter("ignore", ConvergenceWarning)  # it is not to stop by itself
model = GaussianMixture(
    components, covariance_type=covariance, reg_covar=floor, warm_start=True, random_state=seed, tol=0
)
before = 0  # it takes seconds: whoever continues it begins anew, and what it says again is counted once
for step in asked:
    model.set_params(max_iter=step - before).fit(examples)
    before = step
    samples = model.sample(count)[0]
    np.random.default_rng(seed).shuffle(samples)  # they come sorted by component
    if train.dtype == np.uint8:
        samples = samples.round().clip(0, 255).astype(np.uint8)
    np.save(f"{step}.npy", samples.reshape(count, *train.shape[1:]))
    with Path(os.environ["AIQN_REPORT"]).open("a") as file:  # what `aiqn_core.report.report` does
        file.write(json.dumps({"step": step, "samples": f"{step}.npy", "loss": -float(model.lower_bound_)}) + "\n")
