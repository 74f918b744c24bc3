"""Downloads from a server that misbehaves: the file is whole, or absent and the reason told."""

import hashlib
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from segmentation.datasets import http
from segmentation.datasets.http import download
from segmentation.errors import UserError
from tests.datasets.server import Answer, serving
from tests.errors import refuses

DATA = random.Random(0).randbytes(400_000)
OTHER = random.Random(1).randbytes(400_000)
TAG, TAG2 = {"ETag": '"one"'}, {"ETag": '"two"'}
DATED = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
SHA = hashlib.sha256(DATA).hexdigest()


def fetch(tmp_path: Path, *answers: Answer, sha256: str = "", name: str = "a.bin") -> list[str]:
    """Download from a server that answers so, and return the Range of each request."""
    with serving({name: list(answers)}) as server:
        download(f"{server.url}/{name}", tmp_path / name, sha256, pause=0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    return [wanted for _, wanted in server.seen]


def refused(
    tmp_path: Path, says: str, *answers: Answer, sha256: str = "", name: str = "a.bin"
) -> int:
    """The download fails with one line, nothing looks complete; returns the number of requests."""
    with serving({name: list(answers)}) as server:
        with pytest.raises(UserError, match=says) as caught:
            download(f"{server.url}/{name}", tmp_path / name, sha256, pause=0)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(server.url)
        assert str(caught.value).endswith("give it with --archive")
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    return len(server.seen)


def begun(folder: Path) -> Path:
    """What has arrived so far."""
    return folder / ".a.bin.part" / "data"


@pytest.mark.parametrize("headers", [TAG, DATED, {**DATED, "ETag": 'W/"weak"'}, {**TAG, **DATED}])
def test_goes_on_where_the_connection_dropped(tmp_path: Path, headers: dict[str, str]) -> None:
    # A weak validator never holds (RFC 9110, 13.1.5).
    ranges: bool | str = "blindly" if "W/" in headers.get("ETag", "") else True
    answers = [Answer(DATA, headers=headers, drop=n, ranges=ranges) for n in (200_000, 100_000)]
    found = fetch(tmp_path, *answers, Answer(DATA, headers=headers, ranges=ranges), sha256=SHA)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in found[1:]]
    assert found[0] == "" and 130_000 < starts[0] <= 200_000
    assert starts[0] + 30_000 < starts[1] <= starts[0] + 100_000


def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    gate = threading.Event()
    with serving({"a.bin": [Answer(DATA, headers=TAG, wait=gate), Answer(DATA, headers=TAG)]}) as s:
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from segmentation.datasets.http import download\n"
            "download(sys.argv[1], Path(sys.argv[2]))"
        )
        url, target = f"{s.url}/a.bin", tmp_path / "a.bin"
        process = subprocess.Popen([sys.executable, "-c", code, url, str(target)])
        while not (begun(tmp_path).exists() and begun(tmp_path).stat().st_size > 100_000):
            assert process.poll() is None
        process.kill()
        process.wait()
        gate.set()
        kept = begun(tmp_path).stat().st_size
        assert not target.exists()
        download(url, target, SHA)
        assert target.read_bytes() == DATA and [*tmp_path.iterdir()] == [target]
        assert s.seen == [("a.bin", ""), ("a.bin", f"bytes={kept}-")]


@pytest.mark.parametrize(
    ("first", "second"),
    [(TAG, TAG2), (DATED, {"Last-Modified": "Thu, 22 Oct 2015 07:28:00 GMT"}), ({}, {}), (TAG, {})],
)
@pytest.mark.parametrize("ranges", [True, False, "blindly"])
def test_a_file_that_changes_is_not_glued(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], ranges: bool | str
) -> None:
    later = [Answer(OTHER, headers=second, ranges=ranges)] * 2
    fetch(tmp_path, Answer(DATA, headers=first, drop=200_000, ranges=ranges), *later)
    assert (tmp_path / "a.bin").read_bytes() == OTHER


def test_a_part_of_another_address_is_not_glued(tmp_path: Path) -> None:
    refused(tmp_path, "500 Server Error", Answer(DATA, headers=TAG, drop=2**16), Answer(status=500))
    assert begun(tmp_path).exists()
    assert fetch(tmp_path, Answer(OTHER, headers=TAG)) == [""]  # the port is another
    assert (tmp_path / "a.bin").read_bytes() == OTHER


@pytest.mark.parametrize("wrong", [{"Content-Range": "bytes 7-399999/400000"}, None])
def test_a_server_that_misreads_range(tmp_path: Path, wrong: dict[str, str] | None) -> None:
    """It ignores it, or sends another one."""
    odd = Answer(DATA, headers={**TAG, **(wrong or {})}, ranges=wrong is not None)
    first, last = Answer(DATA, headers=TAG, drop=200_000), Answer(DATA, headers=TAG)
    assert len(fetch(tmp_path, first, odd, last, sha256=SHA)) == (3 if wrong else 2)
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize(("content", "requests"), [(DATA, 1), (DATA + b"more", 2)])
def test_killed_after_the_last_byte(tmp_path: Path, content: bytes, requests: int) -> None:
    with serving({"a.bin": [Answer(DATA, headers=TAG)]}) as server:
        begun(tmp_path).parent.mkdir()
        begun(tmp_path).write_bytes(content)
        begun(tmp_path).with_name("note").write_text(f'{server.url}/a.bin\n"one"')
        download(f"{server.url}/a.bin", tmp_path / "a.bin", SHA, pause=0)
    assert (tmp_path / "a.bin").read_bytes() == DATA and len(server.seen) == requests


@pytest.mark.parametrize("note", [b"", b"7", b"\n", b'\n"one"', b"\xff\0"])
def test_a_spoilt_note(tmp_path: Path, note: bytes) -> None:
    begun(tmp_path).parent.mkdir()
    begun(tmp_path).write_bytes(b"old")
    begun(tmp_path).with_name("note").write_bytes(note)
    assert fetch(tmp_path, Answer(DATA, headers=TAG), sha256=SHA) == [""]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(DATA, headers=TAG, drop=0),
        Answer(DATA, drop=200_000),
        Answer(DATA, headers=TAG, drop=200_000, ranges=False),
    ],
)
def test_gives_up_where_nothing_more_comes(tmp_path: Path, answer: Answer) -> None:
    """Also where each attempt brings the same first bytes again."""
    assert refused(tmp_path, ", 5 times; check the address", answer) in (5, 6)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_busy_is_asked_again(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(tmp_path, *[Answer(status=status)] * 2, Answer(DATA)) == [""] * 3
    (tmp_path / "a.bin").unlink()
    assert refused(tmp_path, f"{status} .* Error: .*, 5 times", Answer(status=status)) == 5
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with serving({"a.bin": [Answer(status=status)]}) as server, pytest.raises(UserError):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert waits == [2, 4, 8, 16]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(status=401), "401 Client Error"),
        (Answer(status=404), r"a\.zip: 404 Client Error: Not Found for url: .*; check the address"),
        (Answer(status=204), "is empty"),
        (Answer(b""), "is empty"),
        (Answer(b"\n <!DOCTYPE html><html>Please log in"), "gave a web page, not the file"),
        (Answer(DATA), "is no zip archive, or not a whole one"),
    ],
)
def test_a_refusal_is_final(tmp_path: Path, answer: Answer, says: str) -> None:
    assert refused(tmp_path, says, answer, name="a.zip") == 1
    assert not begun(tmp_path).exists()


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"
        refuses(r"refused.*, 5 times; .*--archive$", download, url, tmp_path / "a.bin", pause=0)
    with pytest.raises(UserError, match=r"Failed to resolve 'nowhere\.invalid'"):
        download("http://nowhere.invalid/a.bin", tmp_path / "a.bin", pause=0)
    with serving({}) as server, pytest.raises(UserError, match=r"SSL.*; check"):
        download(server.url.replace("http:", "https:") + "/a.bin", tmp_path / "a.bin", pause=0)


def test_a_server_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", (0.2, 0.2))
    gate = threading.Event()
    try:
        silent = Answer(DATA, headers=TAG, wait=gate)
        assert len(fetch(tmp_path, silent, Answer(DATA, headers=TAG), sha256=SHA)) == 2
    finally:
        gate.set()


@pytest.mark.parametrize("url", ["a.zip", "file:///etc/passwd", "http://", "http://[/a", "ftp://x"])
def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="; check the address and the network") as caught:
        download(url, tmp_path / "a.bin", pause=0)
    assert "\n" not in str(caught.value)
