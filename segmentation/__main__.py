"""The ``segmentation`` command. Nothing heavy is imported before a command needs it."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.training.signals import leaving

HELP = f"""\
segmentation {__version__}: train, compare and apply segmentation networks

usage: segmentation COMMAND [options]

commands:
  fit        train, then test the best checkpoint
             segmentation fit --config FILE
  validate   score a checkpoint on the validation set
             segmentation validate --config FILE --ckpt_path X
  test       score a checkpoint on the test set, beside Otsu's threshold
             segmentation test --config FILE --ckpt_path X
  predict    masks for a folder of images
             segmentation predict --ckpt_path X --data.images DIR --output DIR
  evaluate   scores of masks or label maps from any tool, as a page
             segmentation evaluate --truth DIR --prediction DIR --output DIR
  compare    runs and evaluations beside each other, on the same images
             segmentation compare RUN RUN ...
  tune       threshold, seeds and sizes of the decoding, on the validation images
             segmentation tune --config FILE --ckpt_path X
  prune      the best head of a U-Net++, alone
             segmentation prune --config FILE --ckpt_path X --output Y
  serve      a page in the browser to try a checkpoint on images
             segmentation serve --ckpt_path X
  export     a checkpoint to give away: without what training needs, smaller
             segmentation export --ckpt_path X --output Y --half
  crossvalidate
             train and test on every fold, and pool the scores
             segmentation crossvalidate --config FILE --folds 5
  prepare    download, verify and unpack a public dataset
             segmentation prepare DATASET --root DIR
  audit      duplicates, leaks and faulty labels of a dataset, as a page
             segmentation audit DATASET --root DIR --output DIR
  reproduce  published experiments, beside their published scores
             segmentation reproduce SYSTEM[/ROW] --output DIR
  sweep      count, run and look at the runs of a sweep file, without W&B's server
             segmentation sweep run FILE --storage DIR
  doctor     what of this machine would stop a training or slow it down
             segmentation doctor --data.root DIR
  weights    the figure of a mask's class and border weights
             segmentation weights --mask FILE --output FIGURE
  synthetic  make nuclei to try everything with
             segmentation synthetic --output DIR

segmentation COMMAND --help tells more.
"""

TRAINER_HELP = """\
usage: segmentation {command} --config FILE [--config FILE ...] [--KEY VALUE ...]

{about}

Every key of the config can be set here too, and what is typed wins over the files:

  --data.root DIR                  where the images are
  --data.batch_size 16             any argument of the data module
  --model.optimizer.lr 3e-4        any argument of the network, loss, optimiser …
  --model.net segmentation_models_pytorch.FPN --model.net.encoder_name resnet34
  --trainer.max_epochs 50          any argument of lightning.Trainer
  --trainer.devices 2 --trainer.strategy ddp
  --trainer.precision bf16-mixed
  --run.name NAME --run.root DIR   the run's folder is DIR/NAME/<time>
  --run.wandb auto|online|offline|off
  --ckpt_path FILE                 {ckpt}
  --seed_everything 1
  --print_config                   show the whole config and stop
  --help-all                       every option of every part (slow: imports everything)

With W&B's sweeps the same command runs under `wandb agent`.
"""

ABOUT = {
    "fit": (
        "Train, keep the best and the last checkpoint, and test the best.",
        "resume this training",
    ),
    "validate": ("Score a checkpoint on the validation set.", "the checkpoint to score"),
    "test": (
        "Score a checkpoint on the test set, beside Otsu's threshold.",
        "the checkpoint to score",
    ),
}

OWN = (
    "predict",
    "evaluate",
    "compare",
    "tune",
    "prune",
    "serve",
    "export",
    "crossvalidate",
    "prepare",
    "audit",
    "reproduce",
    "sweep",
    "doctor",
    "weights",
    "synthetic",
)  # functions in commands.py


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 for bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        return _command(arguments[0])(arguments)
    except UserError as error:
        return _refused(_line(error))
    except (RuntimeError, OSError) as error:
        from segmentation.training.messages import machine_gist

        if (line := machine_gist(error)) is None:
            raise
        return _refused(line)
    except KeyboardInterrupt:
        print("segmentation: interrupted", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # its reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else leaving fails, too
        status = 128 + signal.SIGPIPE
    sys.exit(status)


def _refused(line: str) -> int:
    line = f"segmentation: error: {line}"
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(line, sys.stderr)  # on a line of its own, if a progress bar stands there
    else:
        print(line, file=sys.stderr)
    return 2


def _line(error: UserError) -> str:
    """The error's line, also where a loading process met it.

    PyTorch raises that anew with the whole traceback as its text, which ends in the line.
    """
    kind = type(error)
    return str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()


def _command(name: str) -> Callable[[list[str]], int]:
    if name in ABOUT:
        return _trainer
    if name in OWN:
        return _own
    names = ", ".join([*ABOUT, *OWN])
    raise UserError(f"no command is called {name!r}; choose from {names}")


def _trainer(arguments: list[str]) -> int:
    command = arguments[0]
    if {"-h", "--help"} & set(arguments):
        about, ckpt = ABOUT[command]
        print(TRAINER_HELP.format(command=command, about=about, ckpt=ckpt))
        return 0
    with leaving():  # the imports take seconds, too
        from segmentation.training.cli import run

        run(["--help" if a == "--help-all" else a for a in arguments])
    return 0


def _own(arguments: list[str]) -> int:
    if arguments[0] == "sweep":
        from segmentation.experiments.sweep.commands import sweep

        return sweep(arguments[1:])
    from segmentation import commands

    command: Callable[[list[str]], int] = getattr(commands, arguments[0])
    return command(arguments[1:])


if __name__ == "__main__":
    entry()
