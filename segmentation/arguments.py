"""The parser of the commands beside LightningCLI's."""

import argparse
from typing import NoReturn

from segmentation.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong as every command does: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
