"""The one exception that means: the input is at fault, and here is what to do about it."""


def printable(text: object) -> str:
    """Text as it may be shown: control characters, and bytes that are no UTF-8, are escaped.

    What a terminal would obey (colours, titles, line breaks) becomes ``\\xNN`` or ``\\uNNNN``.

    >>> print(printable("a\\x1b[31m\\udcff.png"))
    a\\x1b[31m\\xff.png
    """
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in str(text))


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python reads a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class UserError(Exception):
    """Bad input. Its text is one line that names the file, the value and the remedy.

    The command line prints it without a traceback and exits with status 2. It is
    :func:`printable`, whatever the names of files are.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text.strip()))  # PyTorch adds a line break


class Unwritten(UserError):
    """The output is at fault, not what is read: a full disk, or a folder without write access."""


def first_of(error: BaseException) -> BaseException:
    """What first went wrong, of an error that others were raised from; a `UserError` says it."""
    while not isinstance(error, UserError) and (cause := error.__cause__ or error.__context__):
        error = cause
    return error


def gist_of(error: BaseException, most: int = 160) -> str:
    """The beginning of an error's text, in one line."""
    return " ".join(str(error).split())[:most]
