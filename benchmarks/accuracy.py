"""Keep a run's scores as a result: what was trained, for how long, on what, and what it scored.

    segmentation fit --config configs/dsb2018/unet_small.yaml --data.root DATA
    python benchmarks/accuracy.py runs/dsb2018-unet-small/TIME --output benchmarks/results/NAME.json

Paths are left out: a result is about the data, the config and the machine's kind.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from common import hardware, versions


def result(run: Path) -> dict[str, Any]:
    """Scores, cost and config of a run's folder."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"].pop("root", None)
    net = config["model"]["init_args"]["net"].get("init_args", {})
    if net.get("encoder_weights"):  # a name, or a file
        net["encoder_weights"] = Path(net["encoder_weights"]).name
    split = json.loads((run / "split.json").read_text())
    kept: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions(),
        "split": {k: split[k] for k in ("sha256", "counts")},
    }
    for name in ("scores", "resources"):
        path = run / f"{name}.json"
        kept[name] = json.loads(path.read_text()) if path.exists() else None
    trainer = {k: v for k, v in config["trainer"].items() if v is not None}
    return kept | {"model": config["model"], "data": config["data"], "trainer": trainer}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.write_text(json.dumps(result(options.run), indent=1) + "\n")
