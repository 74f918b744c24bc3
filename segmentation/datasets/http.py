"""Downloads that go on where a dropped connection left them, for pooch.

pooch checks the SHA-256, but its own downloader starts over at each break. Here what has arrived is
kept with the server's validator (ETag or date; RFC 9110, 8.8), so that halves of two versions are
never joined.
"""

import shutil
import sys
import time
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pooch
import requests
from requests.exceptions import ChunkedEncodingError, ConnectionError, SSLError, Timeout

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.progress import progress

ATTEMPTS = 5  # in a row that bring not one byte more
BREAKS = (ConnectionError, ChunkedEncodingError, Timeout)
TIMEOUT = (10.0, 60.0)  # seconds for the connection, and without a byte
BUSY = (408, 416, 425, 429)  # answers that may be others in a while, as are all of 500 and above
REMEDY = "check the address and the network, or fetch the file elsewhere and give it with --archive"

_PIECE = 2**12  # bytes that are written at once: a connection that breaks loses less

pooch.get_logger().setLevel("WARNING")  # prepare itself says where files come from


def download(url: str, target: Path, sha256: str = "", pause: float = 1.0) -> None:
    """Fetch a file, which appears when it is whole and checked; what was begun is continued.

    ``pause`` are the seconds to wait after a break, doubled with each attempt that brought nothing.
    No network, a refusal, a web page in place of the file, a ``.zip`` that is none or another
    ``sha256`` are a :class:`UserError`; a full disk is an ``OSError``, and a later call goes on.
    """
    part = target.with_name(f".{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    known = f"sha256:{sha256}" if sha256 else None
    try:
        pooch.retrieve(url, known, target.name, part, downloader=ResumingDownloader(part, pause))
    except ValueError as error:
        raise UserError(f"{url}: {error} {REMEDY}") from None
    (part / target.name).replace(target)
    shutil.rmtree(part, ignore_errors=True)


class ResumingDownloader:
    """What :func:`pooch.retrieve` takes as ``downloader``; keeps what has arrived in a folder."""

    def __init__(self, folder: Path, pause: float = 1.0) -> None:
        self.data, self.note, self.pause = folder / "data", folder / "note", pause

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Fetch the whole file, in as many attempts as each bring something new."""
        farthest, failures = self._size(), 0
        while reason := self._attempt(url):
            failures = 0 if self._size() > farthest else failures + 1
            farthest = max(farthest, self._size())
            if failures == ATTEMPTS:
                raise UserError(f"{url}: {reason}, {ATTEMPTS} times; {REMEDY}")
            if failures:
                wait = self.pause * 2**failures
                print(f"{url}: {reason}; trying again in {wait:g} s", file=sys.stderr)
                time.sleep(wait)
        fault = ""
        with self.data.open("rb") as file:
            head = file.read(64).lstrip()
        if head.startswith(b"<") or not head:
            fault = "gave a web page, not the file (a login?)" if head else "is empty"
        elif url.endswith(".zip") and not zipfile.is_zipfile(self.data):
            fault = "is no zip archive, or not a whole one"
        if fault:
            self.data.unlink()
            raise UserError(f"{url}: {fault}; {REMEDY}")
        self.data.replace(output_file)

    def _attempt(self, url: str) -> str:
        """Fetch what is missing, and return why it has not all come, or ""."""
        noted = self.note.read_bytes().decode("latin-1") if self.note.exists() else ""
        begun, _, validator = noted.partition("\n")
        offset = self._size() if begun == url and validator else 0
        headers = {"Accept-Encoding": "identity", "User-Agent": f"segmentation/{__version__}"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}

        def check(answer: requests.Response, **_: Any) -> None:
            """Before a byte is written: does it go on there, or start over?"""
            stack.enter_context(answer)  # pooch leaves it open where the status is an error
            if answer.status_code == 206 and offset:
                begins = answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
                if not begins or _validator(answer) != validator:
                    file.truncate(0)
                    raise ConnectionError("the file changed")
            elif answer.status_code == 200:
                file.truncate(0)
                self.note.write_bytes(f"{url}\n{_validator(answer)}".encode("latin-1"))

        bar = progress(None, url.rpartition("/")[2], 1, unit="B", unit_scale=True, leave=False)
        settings: dict[str, Any] = {"timeout": TIMEOUT, "hooks": {"response": check}}
        # pooch sets the bar's total
        fetch = pooch.HTTPDownloader(bar, _PIECE, headers=headers, **settings)
        try:
            # Unbuffered: what came survives a kill.
            with ExitStack() as stack, bar, self.data.open("ab", buffering=0) as file:
                fetch(url, file, None)
        except (requests.exceptions.RequestException, UnicodeError) as error:
            answer = getattr(error, "response", None)  # which is false where the status is not 200
            status = 0 if answer is None else answer.status_code
            if answer is not None and status == 416:
                if answer.headers.get("Content-Range") == f"bytes */{offset}":
                    return ""  # it was whole already
                self.data.unlink()
            again = isinstance(error, BREAKS) and not isinstance(error, SSLError)
            if not (again or status in BUSY or status >= 500):
                raise UserError(f"{url}: {error}; {REMEDY}") from None
            return str(error)
        return ""

    def _size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0


def _validator(answer: requests.Response) -> str:
    """What changes with the file, or "" where the answer's bytes cannot be counted on."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    tag = answer.headers.get("ETag", "")
    return answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
