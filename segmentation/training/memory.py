"""Memory of the process: keeping what a CPU training frees for a moment, and the peak."""

import ctypes
import sys

import psutil

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed; whether it had an effect (Linux with glibc alone).

    Every training step allocates the same tensors of some megabytes again. By default each is
    mapped anew and zeroed by the kernel: a fifth of the processor time of a small U-Net on 256×256
    crops (``benchmarks/malloc.py``).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    try:
        import resource
    except ImportError:  # Windows
        used = psutil.Process().memory_info()
        return int(getattr(used, "peak_wset", used.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
