"""Downloads from a server that misbehaves: the file is whole, or absent and the reason told."""

import hashlib
import io
import random
import socket
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from segmentation.datasets import download as module
from segmentation.datasets.download import download
from segmentation.errors import UserError
from tests.datasets.server import Answer, serving

Usage = namedtuple("Usage", "total used free")
DATA = random.Random(0).randbytes(400_000)
OTHER = random.Random(1).randbytes(400_000)
TAG, TAG2 = {"ETag": '"one"'}, {"ETag": '"two"'}
DATED = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
SHA = hashlib.sha256(DATA).hexdigest()
PAGE = b"\n <!DOCTYPE html><html>Please log in</html>"


def fetch(tmp_path: Path, *answers: Answer, sha256: str = "", name: str = "a.bin") -> list[str]:
    """Download from a server that answers so, and return the Range of each request."""
    with serving({name: list(answers)}) as server:
        download(f"{server.url}/{name}", tmp_path / name, sha256, pause=0)
        return [wanted for _, wanted in server.seen]


def refused(tmp_path: Path, says: str, *answers: Answer, sha256: str = "", **kwargs: str) -> int:
    """The download fails with one line, nothing looks complete; returns the number of requests."""
    name = kwargs.get("name", "a.bin")
    with serving({name: list(answers)}) as server:
        with pytest.raises(UserError, match=says) as caught:
            download(f"{server.url}/{name}", tmp_path / name, sha256, pause=0)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith((server.url, str(tmp_path)))
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    return len(server.seen)


def part(folder: Path) -> Path:
    return folder / ".a.bin.part"


def test_download(tmp_path: Path) -> None:
    assert fetch(tmp_path / "new" / "folder", Answer(DATA), sha256=SHA) == [""]
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == DATA
    assert len([*(tmp_path / "new" / "folder").iterdir()]) == 1  # the part and the note are gone


@pytest.mark.parametrize("headers", [TAG, DATED, {**DATED, "ETag": 'W/"weak"'}, {**TAG, **DATED}])
def test_goes_on_where_the_connection_dropped(tmp_path: Path, headers: dict[str, str]) -> None:
    if headers.get("ETag", "").startswith("W/"):  # a weak one never holds (RFC 9110, 13.1.5)
        later = Answer(DATA, headers=headers, ranges="blindly")
    else:
        later = Answer(DATA, headers=headers)
    ranges = fetch(
        tmp_path,
        Answer(DATA, headers=headers, drop=200_000),
        Answer(DATA, headers=headers, drop=100_000, ranges=later.ranges),
        later,
        sha256=SHA,
    )
    assert (tmp_path / "a.bin").read_bytes() == DATA
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges[1:]]
    assert ranges[0] == "" and 130_000 < starts[0] <= 200_000
    assert starts[0] + 30_000 < starts[1] <= starts[0] + 100_000


def test_goes_on_after_an_interruption(tmp_path: Path) -> None:
    """A process that is killed in mid-file leaves a part, from which the next one goes on."""
    gate = threading.Event()
    first = Answer(DATA, headers=TAG, wait=gate)
    with serving({"a.bin": [first, Answer(DATA, headers=TAG)]}) as server:
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from segmentation.datasets.download import download\n"
            "download(sys.argv[1], Path(sys.argv[2]))"
        )
        target = tmp_path / "a.bin"
        process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/a.bin", str(target)])
        while not (part(tmp_path).exists() and part(tmp_path).stat().st_size > 100_000):
            assert process.poll() is None
        process.kill()
        process.wait()
        gate.set()
        assert not target.exists()
        kept = part(tmp_path).stat().st_size
        download(f"{server.url}/a.bin", target, SHA)
        assert target.read_bytes() == DATA
        assert server.seen == [("a.bin", ""), ("a.bin", f"bytes={kept}-")]


@pytest.mark.parametrize(
    ("first", "second"),
    [(TAG, TAG2), (DATED, {"Last-Modified": "Thu, 22 Oct 2015 07:28:00 GMT"}), ({}, {}), (TAG, {})],
)
@pytest.mark.parametrize("ranges", [True, False, "blindly"])
def test_a_file_that_changes_is_not_glued(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], ranges: bool | str
) -> None:
    answers = [
        Answer(DATA, headers=first, drop=200_000, ranges=ranges),
        *[Answer(OTHER, headers=second, ranges=ranges)] * 2,
    ]
    fetch(tmp_path, *answers)
    assert (tmp_path / "a.bin").read_bytes() == OTHER


def test_a_part_of_another_address_is_not_glued(tmp_path: Path) -> None:
    refused(tmp_path, "answered 500", Answer(DATA, headers=TAG, drop=200_000), Answer(status=500))
    assert part(tmp_path).exists()
    assert fetch(tmp_path, Answer(OTHER, headers=TAG)) == [""]  # the port is another
    assert (tmp_path / "a.bin").read_bytes() == OTHER


def test_a_server_that_ignores_range(tmp_path: Path) -> None:
    answers = [Answer(DATA, headers=TAG, drop=200_000), Answer(DATA, headers=TAG, ranges=False)]
    assert len(fetch(tmp_path, *answers, sha256=SHA)) == 2
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_server_that_answers_another_range(tmp_path: Path) -> None:
    wrong = {**TAG, "Content-Range": "bytes 7-399999/400000"}
    answers = [
        Answer(DATA, headers=TAG, drop=200_000),
        Answer(DATA, headers=wrong),
        Answer(DATA, headers=TAG),
    ]
    ranges = fetch(tmp_path, *answers, sha256=SHA)
    assert (tmp_path / "a.bin").read_bytes() == DATA and ranges[2] == ""


def test_killed_between_the_last_byte_and_the_rename(tmp_path: Path) -> None:
    with serving({"a.bin": [Answer(DATA, headers=TAG)]}) as server:
        target = tmp_path / "a.bin"
        for content, requests in ((DATA, 1), (DATA + b"more", 2)):
            part(tmp_path).write_bytes(content)
            (tmp_path / ".a.bin.note").write_text(f'{server.url}/a.bin\n"one"')
            server.seen.clear()
            download(f"{server.url}/a.bin", target, SHA, pause=0)
            assert target.read_bytes() == DATA and len(server.seen) == requests
            target.unlink()


@pytest.mark.parametrize("note", [b"", b"7", b"\n", b'\n"one"', b"\xff\0"])
def test_a_spoilt_note(tmp_path: Path, note: bytes) -> None:
    part(tmp_path).write_bytes(b"old")
    (tmp_path / ".a.bin.note").write_bytes(note)
    assert fetch(tmp_path, Answer(DATA, headers=TAG), sha256=SHA) == [""]


def test_gives_up_where_nothing_more_comes(tmp_path: Path) -> None:
    """Also where each attempt brings the same first bytes again."""
    for answer in (
        Answer(DATA, headers=TAG, drop=0),
        Answer(DATA, drop=200_000),
        Answer(DATA, headers=TAG, drop=200_000, ranges=False),
    ):
        for path in tmp_path.iterdir():
            path.unlink()
        requests = refused(tmp_path, "the connection broke off, 5 times; check the net", answer)
        assert requests in (5, 6)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, status: int) -> None:
    assert fetch(tmp_path, Answer(status=status), Answer(status=status), Answer(DATA)) == [""] * 3
    (tmp_path / "a.bin").unlink()
    assert refused(tmp_path, rf"answered {status} .*, 5 times", Answer(status=status)) == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206])
def test_a_refusal_is_final(tmp_path: Path, status: int) -> None:
    says = rf"a\.bin: the server answered {status} .*; check the address, or check the network"
    assert refused(tmp_path, says, Answer(status=status)) == 1


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html; charset=utf-8"}, {}])
@pytest.mark.parametrize("name", ["a.zip", "a.csv"])
def test_a_web_page_in_place_of_the_file(
    tmp_path: Path, headers: dict[str, str], name: str
) -> None:
    says = "gave a web page, not the file"
    assert refused(tmp_path, says, Answer(PAGE, headers=headers), name=name) == 1
    assert not (tmp_path / f".{name}.part").exists()


def test_a_wrong_checksum(tmp_path: Path) -> None:
    other = hashlib.sha256(OTHER).hexdigest()
    says = f"a.bin: its SHA-256 is {other} and should be {SHA}; it was removed"
    refused(tmp_path, says, Answer(OTHER, headers=TAG), sha256=SHA)
    assert not part(tmp_path).exists()
    assert fetch(tmp_path, Answer(DATA, headers=TAG), sha256=SHA) == [""]


def test_what_is_no_archive(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", DATA)
    fetch(tmp_path / "good", Answer(file.getvalue()), name="a.zip")
    for content in (DATA, file.getvalue()[:-30]):
        refused(tmp_path / "bad", "no zip archive", Answer(content), name="a.zip")
    refused(tmp_path / "bad", "is empty", Answer(b""))
    assert {path.name for path in (tmp_path / "bad").iterdir()} <= {".a.zip.note", ".a.bin.note"}


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100, 100, 399_999))
    refused(tmp_path, "400,000 bytes are to come and 399,999 are free", Answer(DATA))


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """Linux has a file that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    part(tmp_path).symlink_to("/dev/full")
    refused(tmp_path, r"cannot be written \(No space left on device\); .* goes on", Answer(DATA))


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a.bin: cannot be written \("):
        download("http://127.0.0.1:9/a.bin", tmp_path / "file" / "a.bin")


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"
        with pytest.raises(UserError, match=r"no connection \(.*refused\), 5 times; .*--archive$"):
            download(url, tmp_path / "a.bin", pause=0)
    with pytest.raises(UserError, match=r"no connection \(Failed to resolve 'nowhere\.invalid'"):
        download("http://nowhere.invalid/a.bin", tmp_path / "a.bin", pause=0)


def test_a_server_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", (0.2, 0.2))
    gate = threading.Event()
    try:
        silent = Answer(DATA, headers=TAG, wait=gate)
        assert len(fetch(tmp_path, silent, Answer(DATA, headers=TAG), sha256=SHA)) == 2
    finally:
        gate.set()


@pytest.mark.parametrize(
    "url", ["a.zip", "file:///etc/passwd", "http://", "http://[/a", "ftp://x/a"]
)
def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched .*; check the address") as caught:
        download(url, tmp_path / "a.bin", pause=0)
    assert "\n" not in str(caught.value)


def test_a_server_without_tls(tmp_path: Path) -> None:
    with serving({}) as server, pytest.raises(UserError, match="no trusted connection"):
        download(server.url.replace("http:", "https:") + "/a.bin", tmp_path / "a.bin", pause=0)


def test_waits_longer_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with serving({"a.bin": [Answer(status=503)]}) as server, pytest.raises(UserError):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert waits == [2, 4, 8, 16]
