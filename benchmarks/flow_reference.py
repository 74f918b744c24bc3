"""Cellpose's flows of label maps, and what it finds by flows; run by an interpreter that has it.

    python flow_reference.py MAPS OUTPUT

MAPS is an .npz with ``labels`` (H, W) and the noisy ``flows`` (2, H, W). For every line on the
input, ``encode`` or ``decode``, it prints the processor seconds that one call took, and for
``save`` it writes both results to OUTPUT (.npz). Its first line is the version.
"""

import importlib.metadata
import sys
import time

import numpy as np
import torch
from cellpose.dynamics import compute_masks, masks_to_flows


def main() -> None:
    torch.set_num_threads(1)
    maps, output = sys.argv[1:]
    with np.load(maps) as arrays:
        labels, flows = arrays["labels"].astype(np.int32), arrays["flows"]
    certain = np.where(labels > 0, 6, -6).astype(np.float32)  # logits of the foreground
    calls = {
        "encode": lambda: masks_to_flows(labels),
        "decode": lambda: compute_masks(5 * flows, certain, max_size_fraction=1.0),
    }
    print(importlib.metadata.version("cellpose"), flush=True)
    for line in sys.stdin:
        start = time.process_time()
        if line.strip() == "save":
            np.savez(output, encode=calls["encode"](), decode=calls["decode"]())
        else:
            calls[line.strip()]()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
