"""The one exception that means: the input is at fault, and here is what to do about it."""


class UserError(Exception):
    """Bad input. Its text is one line that names the file, the value and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


class Unwritten(UserError):
    """The output is at fault, not what is read: a full disk, or a folder without write access."""
