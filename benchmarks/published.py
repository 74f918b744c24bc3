"""Collect what ``segmentation reproduce`` measured, and print the tables of docs/results.

    segmentation reproduce SYSTEM --budget cpu --output DIR     # for a, b, c, d and e
    python benchmarks/published.py DIR

Several folders may be given, of systems that were run side by side.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import HERE, hardware, versions

from segmentation.experiments.reproduce import find_rows, published_table

CONFIGS = HERE.parent / "configs" / "reproduce"
BUDGET = "cpu"


def collected(folders: list[Path]) -> dict[str, Any]:
    """All runs of the budget, without paths."""
    runs: dict[str, Any] = {}
    for folder in folders:
        runs |= json.loads((folder / "results.json").read_text())
    chosen = {key: run for key, run in sorted(runs.items()) if f" {BUDGET} " in key}
    return {key: {k: v for k, v in run.items() if k != "run"} for key, run in chosen.items()}


def main() -> None:
    """Write the result and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument(
        "--output", type=Path, default=HERE / "results" / f"reproduce_{BUDGET}.json"
    )
    options = parser.parse_args()
    runs = collected(options.folders)
    about = {
        "command": f"segmentation reproduce SYSTEM --budget {BUDGET}",
        "hardware": hardware(),
        "versions": versions(),
    }
    options.output.write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")
    for system in sorted(path.name for path in CONFIGS.iterdir()):
        print(f"{system}. {published_table(find_rows(CONFIGS, system), BUDGET, runs)}\n")


if __name__ == "__main__":
    main()
