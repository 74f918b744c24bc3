"""A training of a moment: what sweeps start in the tests. Logs val/iou to metrics.csv and, if
there is a server, to W&B."""

import os
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> None:
    options = dict(word[2:].partition("=")[::2] for word in words)
    folder = Path(options["run.root"], options["run.name"], f"{time.time_ns()}")
    folder.mkdir(parents=True)
    x, epochs = float(options["x"]), int(options.get("epochs", 2))
    if options.get("crash") == options["x"]:
        raise SystemExit(f"crashed at {x}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = None
    if os.environ.get("WANDB_SWEEP_ID"):
        import wandb

        run = wandb.init()
    (folder / "started").write_text(str(os.getpid()))
    metric = options.get("metric", "val/iou")
    with (folder / "metrics.csv").open("w") as file:
        file.write(f"epoch,{metric}\n")
        for epoch in range(epochs):
            score = 1 - (x - 3) ** 2 / 100 + epoch / 1000
            file.write(f"{epoch},{score}\n")
            file.flush()
            if run is not None:
                run.log({metric: score})
            time.sleep(float(options.get("wait", 0)))
            while (folder.parents[1] / f"hold-{options['x']}").exists():
                time.sleep(0.05)
    (folder / "argv.txt").write_text("\n".join(words))
    if run is not None:
        run.finish()


main(sys.argv[1:])
