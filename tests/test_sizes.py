from aiqn_core.config import TrainConfig
from aiqn_core.sizes import FILES, checkpoint_bytes
from aiqn_core.training import train


def test_checkpoints_are_about_as_large_as_was_said_before(tmp_path):
    mapping = {
        "data": {"name": "banana2d"},
        "model": {"name": "aiqn", "hidden": [220, 310]},
        "train": {"steps": 7},
        "evaluate": {"every": 5, "samples": 11, "reference": 13},
    }
    config = TrainConfig.from_dict(mapping)
    for _ in train(config, tmp_path):
        pass
    written = (tmp_path / "checkpoint.pt").stat().st_size
    assert 0.9 < checkpoint_bytes(config) / (FILES * written) < 1.1
    kept = TrainConfig.from_dict({**mapping, "evaluate": {**mapping["evaluate"], "keep_weights": True}})
    weights = written / 4
    assert 1.8 * weights < checkpoint_bytes(kept) - checkpoint_bytes(config) < 2.2 * weights  # of steps 5 and 7
