"""The ``segmentation`` command. Nothing heavy is imported before a command needs it."""

import sys
from collections.abc import Callable, Sequence

from segmentation import __version__
from segmentation.errors import UserError

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
  prune      the best head of a U-Net++, alone
             segmentation prune --config FILE --ckpt_path X --output Y
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
        print(f"segmentation: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segmentation: interrupted", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _command(name: str) -> Callable[[list[str]], int]:
    commands = {
        "fit": _trainer, "validate": _trainer, "test": _trainer,
        "predict": _predict, "prune": _prune, "synthetic": _synthetic,
    }  # fmt: skip
    if name not in commands:
        raise UserError(f"no command is called {name!r}; choose from {', '.join(commands)}")
    return commands[name]


def _trainer(arguments: list[str]) -> int:
    command = arguments[0]
    if {"-h", "--help"} & set(arguments):
        about, ckpt = ABOUT[command]
        print(TRAINER_HELP.format(command=command, about=about, ckpt=ckpt))
        return 0
    from segmentation.cli import run

    run(["--help" if a == "--help-all" else a for a in arguments])
    return 0


def _predict(arguments: list[str]) -> int:
    from segmentation.commands import predict

    return predict(arguments[1:])


def _prune(arguments: list[str]) -> int:
    from segmentation.commands import prune

    return prune(arguments[1:])


def _synthetic(arguments: list[str]) -> int:
    from segmentation.commands import synthetic

    return synthetic(arguments[1:])


if __name__ == "__main__":
    entry()
