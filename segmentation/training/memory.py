"""Memory that a CPU training frees and asks for again a moment later."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed instead of handing it back to the kernel.

    Every step of a training allocates the same tensors of some megabytes again. By default each is
    mapped anew and every page of it zeroed by the kernel: a fifth of the processor time of a small
    U-Net on 256×256 crops (``benchmarks/malloc.py``).

    Returns:
        Whether it had an effect: elsewhere than on Linux with glibc it has none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
