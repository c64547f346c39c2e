"""Seeds that follow from a sweep's own: what is drawn for a trial is the same on every start."""

import hashlib


def trial_seed(search_seed: int, arm: str, number: int) -> int:
    """The seed of a search trial, 31 bits: the same on every start, and on every machine."""
    digest = hashlib.sha256(f"{search_seed}/{arm}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
