"""What the devices of this machine can do."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
# Assumed where the system does not tell how much memory is free.
UNKNOWN_FREE_BYTES = 4 << 30


def native_bfloat16(accelerator: str = "auto") -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware.

    Args:
        accelerator: `auto` (a GPU where there is one, else the CPU), `gpu`, `cuda` or `cpu`.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator in ("auto", "cpu"):
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def fastest_device() -> str:
    """A GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside this context, memory that is freed stays with the process, ready for the next tensor of its size.

    By default glibc gives every block above 32 MB back to the system at once and gets it anew, page fault by page fault
    and zeroed, for the next batch: up to half of a training step's time. Other C libraries are left as they are.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    trim_threshold, mmap_max = -1, -4  # the numbers of M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(trim_threshold, 128 << 10)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt, libc.malloc_trim  # noqa: B018 musl has neither
    except (OSError, AttributeError):
        return None
    return libc


def free_bytes(device: torch.device | str = "cpu") -> int:
    """How much memory may still be taken on a device.

    On a CPU it is the smallest of three numbers: what the machine has available, what the control group (a container, a
    SLURM job) leaves, without its page cache, and what `ulimit -d` leaves. On a GPU, blocks that PyTorch keeps for
    tensors to come are free, too.
    """
    device = torch.device(device)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return max(0, min((*_available(), *_left_by_cgroups(), *_left_by_ulimit()), default=UNKNOWN_FREE_BYTES))


def _available() -> Iterator[int]:
    try:
        yield _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, KeyError):
        return


def _left_by_cgroups() -> Iterator[int]:
    try:
        groups = [line.strip().split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if controllers == "":
            root, limit, used, cached = CGROUPS, "memory.max", "memory.current", "file"
        elif controllers == "memory":
            root, limit, used, cached = (
                CGROUPS / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_cache",
            )
        else:
            continue
        folder = root / path.lstrip("/")
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / used).read_text()) - int(stat[cached])
            yield int((folder / limit).read_text()) - taken
        except (OSError, KeyError, ValueError):  # not mounted here, or "max": no limit
            continue


def _left_by_ulimit() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        try:
            yield limit - _kilobytes(Path("/proc/self/status"), "VmData")
        except (OSError, KeyError):
            yield limit


def _kilobytes(table: Path, name: str) -> int:
    """A row such as `VmData:   1234 kB`, in bytes."""
    rows = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
    return int(rows[name].split()[0]) * 1024
