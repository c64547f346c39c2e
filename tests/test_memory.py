"""Samples where memory runs out, by fakes that raise what torch raises; what a machine says of its memory."""

import logging

import pytest
import torch

from aiqn_core import memory, sampling
from aiqn_core.cached_sampler import CachedSampler
from aiqn_core.config import ModelConfig
from aiqn_core.memory import cap_gpu, free_bytes, out_of_memory
from aiqn_core.models import build_model
from aiqn_core.sampling import sample

SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 64 bytes"),
]


def model():
    torch.manual_seed(0)
    built = build_model(ModelConfig(name="pixeliqn", layers=2, planes=8, skip_planes=16), (3, 4, 5)).double()
    torch.nn.init.normal_(built.network.head.weight, std=0.2)
    return built


def limited(monkeypatch, most, error):
    """A sampler that runs out of memory, with its images half written, above `most` images; the sizes it was given."""
    sizes, fill = [], CachedSampler.fill

    def short(self, images, tau, label, mask):
        sizes.append(len(images))
        if len(images) > most:
            images[:, :, ::2] = torch.where(mask, images, 77)[:, :, ::2]
            raise error
        fill(self, images, tau, label, mask)

    monkeypatch.setattr(CachedSampler, "fill", short)
    return sizes


@pytest.mark.parametrize("error", SHORT)
def test_a_batch_is_halved_until_it_fits(monkeypatch, caplog, error):
    tau, known = torch.rand(11, 3, 4, 5), torch.randint(256, (11, 3, 4, 5), dtype=torch.uint8)
    given = {"tau": tau, "known": known, "mask": torch.rand(known.shape) < 0.3}
    whole = sample(model(), 11, **given)
    sizes = limited(monkeypatch, 3, error)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sample(model(), 11, **given), whole)
    assert sizes == [11, 6, 3, 3, 3, 2]
    assert "going on with 3 images at once" in caplog.text


def test_one_image_that_does_not_fit_is_an_error(monkeypatch):
    sizes = limited(monkeypatch, 0, SHORT[1])
    with pytest.raises(torch.OutOfMemoryError):
        sample(model(), 5)
    assert sizes == [5, 3, 2, 1]


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    sizes = limited(monkeypatch, 0, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="assert"):
        sample(model(), 5)
    assert sizes == [5]
    assert not any(out_of_memory(error) for error in (ValueError("memory"), RuntimeError("out of memory of time")))


@pytest.mark.parametrize(("images", "sizes"), [(20, [11]), (7, [6, 5]), (4, [3, 3, 3, 2]), (0, [1] * 11)])
def test_batches_are_small_from_the_start_where_little_is_free(monkeypatch, images, sizes):
    """Half of what is free is taken: room for that many images, each of 2 blocks, 8 planes, 6 rows of 5 in float64."""
    each = 2 * 8 * 6 * 5 * 8
    monkeypatch.setattr(sampling, "free_bytes", lambda device: 2 * each * images)
    taken = limited(monkeypatch, 11, MemoryError())
    sample(model(), 11)
    assert taken == sizes


def test_free_memory_is_what_the_system_and_the_container_leave(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    70 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert free_bytes(cpu) == 70 * 1024
    (tmp_path / "memory.current").write_text("30000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 700\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(cpu) == 70 * 1024
    (tmp_path / "memory.max").write_text("50000\n")
    assert free_bytes(cpu) == 20_700
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "nothing")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "nothing")
    assert free_bytes(cpu) is None


def test_a_trial_has_its_share_of_the_gpu(monkeypatch):
    shares = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    for share in (0.25, 1.0, 2.0):
        cap_gpu(share)
    assert shares == [0.25]
    with pytest.raises(ValueError, match="saw 0"):
        cap_gpu(0)
