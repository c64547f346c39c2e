"""Memory of the device: how much is free, a trial's share of a GPU, and what running out of it looks like."""

from pathlib import Path

import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or this process's share of it, has no memory left."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a new tensor may take, or None where this system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min((limit for limit in (_system_bytes(), _container_bytes()) if limit is not None), default=None)


def _system_bytes() -> int | None:
    if not MEMINFO.exists():
        return None
    fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    return 1024 * int(fields["MemAvailable"].split()[0]) if "MemAvailable" in fields else None


def _container_bytes() -> int | None:
    """What the control group (version 2) of a container or job leaves, counting files that can be dropped as free."""
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" where there is none
        used = int((CGROUP / "memory.current").read_text())
        fields = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return limit - used + int(fields.get("inactive_file", 0))


def cap_gpu(share: float) -> None:
    """Keep this process to its share of the GPU's memory: beyond it, it alone runs out, not its neighbours.

    A share of 1 or more, and a machine without a GPU, are left alone. Raises ValueError where the share is not
    above 0.
    """
    if not share > 0:
        raise ValueError(f"share of a GPU: saw {share}, expected a number above 0, for example 0.5")
    if share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
