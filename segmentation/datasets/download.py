"""Files over HTTP that go on where a dropped connection left them, and are whole or not there.

What has arrived lies in ``.NAME.part`` beside the target; ``.NAME.note`` keeps the address and the
server's validator (ETag or date; RFC 9110, 8.8), so that halves of two versions are never joined.
"""

import contextlib
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import requests
from requests import exceptions
from tqdm.auto import tqdm

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.io.files import sha256_of

ATTEMPTS = 5  # in a row that bring not one byte more
TIMEOUT = (10.0, 60.0)  # seconds for the connection, and without a byte
CHUNK = 2**16

_BUSY = (408, 425, 429)  # answers that may be others in a while, as are all of 500 and above
_OTHERWISE = "check the network, or fetch the file elsewhere and give it with --archive"


class _Dropped(Exception):
    """Worth another attempt."""


def download(url: str, target: Path, sha256: str = "", pause: float = 1.0) -> None:
    """Fetch ``url`` to ``target``; what an earlier call began is continued.

    Args:
        url: HTTP or HTTPS.
        target: Appears when the file is whole and checked; a ``.zip`` must be one.
        sha256: What the file's must be, if known.
        pause: Seconds to wait after a drop, doubled with each attempt that brought nothing.

    Raises:
        UserError: No network, a refusal, a web page in place of the file, a wrong checksum (the
            file is then removed), a full disk.
    """
    part, note = (target.with_name(f".{target.name}.{end}") for end in ("part", "note"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, note, pause)
        fault = _fault(part, target.suffix, sha256)
        if fault:
            part.unlink()
            raise UserError(f"{url}: {fault}; it was removed: try again, or {_OTHERWISE}")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        note.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror}); choose a folder with write access "
            "and free space, and the download goes on"
        ) from None


def _fetch(url: str, part: Path, note: Path, pause: float) -> None:
    farthest, failures = _size(part), 0
    while True:
        try:
            return _attempt(url, part, note)
        except _Dropped as error:
            failures = 0 if _size(part) > farthest else failures + 1
            farthest = max(farthest, _size(part))
            if failures == ATTEMPTS:
                raise UserError(f"{url}: {error}, {ATTEMPTS} times; {_OTHERWISE}") from None
            wait = pause * 2**failures
            print(f"{url}: {error}; trying again in {wait:g} s", file=sys.stderr)
            time.sleep(wait)


def _attempt(url: str, part: Path, note: Path) -> None:
    offset, validator = _begun(url, part, note)
    headers = {"Accept-Encoding": "identity", "User-Agent": f"segmentation/{__version__}"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if offset and answer.status_code == 416:
                if answer.headers.get("Content-Range") == f"bytes */{offset}":
                    return  # it was whole already
                _restart(part, "the file changed")
            if offset and answer.status_code == 206:
                begins = answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
                if not begins or _validator(answer) != validator:
                    _restart(part, "the file changed")
            else:
                _check_answer(url, answer)
                offset = 0
                part.write_bytes(b"")
                note.write_text(f"{url}\n{_validator(answer)}", "utf-8")
            _receive(answer, part, offset)
    except exceptions.SSLError as error:
        raise UserError(f"{url}: no trusted connection ({_cause(error)}); {_OTHERWISE}") from None
    except exceptions.Timeout:
        raise _Dropped("no answer in time") from None
    except exceptions.ConnectionError as error:
        raise _Dropped(f"no connection ({_cause(error)})") from None
    except (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError):
        raise _Dropped("the connection broke off") from None
    except (exceptions.RequestException, UnicodeError) as error:
        raise UserError(f"{url}: cannot be fetched ({error}); check the address") from None


def _receive(answer: requests.Response, part: Path, offset: int) -> None:
    length = answer.headers.get("Content-Length", "")
    total = offset + int(length) if length.isdecimal() else None
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - offset > free:
        raise UserError(
            f"{part.parent}: {total - offset:,} bytes are to come and {free:,} are free; choose "
            "another folder or make room"
        )
    bar = tqdm(
        desc=part.name.removeprefix(".").removesuffix(".part"),
        total=total, initial=offset, unit="B", unit_scale=True, disable=None,
    )  # fmt: skip
    with bar, part.open("ab", buffering=0) as file:  # unbuffered: what came survives a kill
        for chunk in answer.iter_content(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) < total:  # older urllib3 ends without a word
        raise _Dropped("the connection broke off")


def _begun(url: str, part: Path, note: Path) -> tuple[int, str]:
    """Bytes that are there and the validator of their file; 0 where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        noted, _, validator = note.read_text("utf-8").partition("\n")
        if noted == url and validator:
            return _size(part), validator
    return 0, ""


def _validator(answer: requests.Response) -> str:
    """What changes with the file, or "" where the answer's bytes cannot be counted on."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    tag = answer.headers.get("ETag", "")
    return answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


def _check_answer(url: str, answer: requests.Response) -> None:
    status = f"the server answered {answer.status_code} {answer.reason or ''}".rstrip()
    if answer.status_code in _BUSY or answer.status_code >= 500:
        raise _Dropped(status)
    if answer.status_code != 200:
        raise UserError(f"{url}: {status}; check the address, or {_OTHERWISE}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise UserError(f"{url}: gave a web page, not the file (a login?); {_OTHERWISE}")


def _restart(part: Path, reason: str) -> None:
    part.unlink()
    raise _Dropped(reason)


def _fault(part: Path, suffix: str, sha256: str) -> str:
    """What is wrong with a file that has arrived, or ""."""
    with part.open("rb") as file:
        head = file.read(64)
    if head.lstrip()[:1] == b"<":
        return "gave a web page, not the file"
    if sha256 and (found := sha256_of(part)) != sha256:
        return f"its SHA-256 is {found} and should be {sha256}"
    if suffix == ".zip" and not zipfile.is_zipfile(part):
        return "is no zip archive, or not a whole one"
    return "" if head else "is empty"


def _cause(error: BaseException) -> str:
    """The last reason in a chain such as requests', without the objects it prints."""
    for inner in error.args:
        if isinstance(reason := getattr(inner, "reason", inner), BaseException):
            return _cause(reason)
    return str(error.args[-1] if error.args else error).rpartition(": ")[2]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
