"""The page in the browser, asked by a client."""

import base64
import contextlib
import csv
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tifffile
import torch

import segmentation
from segmentation.__main__ import main
from segmentation.app.server import result, server
from segmentation.errors import UserError
from segmentation.io.images import read_image
from tests.helpers import refusal
from tests.predict.predicting import make_images


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images")) / "image0.png"


@pytest.fixture(scope="module")
def address(checkpoint: Path) -> Iterator[str]:
    model = segmentation.load(checkpoint, device="cpu")
    with server(model, "<best>", "127.0.0.1", 0) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_the_page_asks_for_an_image(address: str) -> None:
    page = requests.get(address, timeout=60)
    assert page.status_code == 200 and "<h1>&lt;best&gt;</h1>" in page.text
    assert 'type="file" accept=".png,.tif' in page.text
    (nonce,) = re.findall("script-src 'nonce-(.*)'", page.headers["Content-Security-Policy"])
    assert f'<script nonce="{nonce}">' in page.text and page.text.count("<script") == 1
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert requests.get(f"{address}/etc/passwd", timeout=60).status_code == 404
    assert requests.post(f"{address}/other", b"x", timeout=60).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "["},
        {"Host": "8.8.8.8"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://["},
        {"Origin": "null"},
    ],
)
def test_pages_of_other_hosts_are_refused(
    address: str, image: Path, headers: dict[str, str]
) -> None:
    """A page that a user has open elsewhere must not reach this one through the browser."""
    for method, path in (("GET", "/"), ("POST", "/predict?name=a.png")):
        data = image.read_bytes() if method == "POST" else b""
        told = requests.request(method, address + path, data=data, headers=headers, timeout=60)
        assert told.status_code == 403 and "of another host" in told.text
    site = {"Sec-Fetch-Site": "cross-site"}
    assert requests.post(f"{address}/predict", b"x", headers=site, timeout=60).status_code == 403
    own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
    assert requests.post(f"{address}/predict", b"x", headers=own, timeout=60).status_code == 400


def test_a_slow_client_does_not_stop_the_others(address: str, image: Path) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(
            f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n".encode()
        )
        data, name = image.read_bytes(), {"name": "a.png"}
        told = requests.post(f"{address}/predict", data, params=name, timeout=60)
        assert told.status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000),
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
        b"POST /predict?name=a.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nshort",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_requests(
    address: str, request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            told = client.recv(1000)
            assert not told or b" 4" in told[:14] or b"Error code: 4" in told
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(request_[:-1])  # and away
    assert requests.get(address, timeout=60).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_others_may_be_let_in_by_address_or_name_alone(checkpoint: Path) -> None:
    """Any name may lead to this machine: a page of that name could read what it shows."""
    model = segmentation.load(checkpoint, device="cpu")
    with server(model, "best", "0.0.0.0", 0) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        here = f"http://127.0.0.1:{listening.server_port}"
        for host, status in (
            ("127.0.0.1:8000", 200),
            ("192.168.1.7", 200),
            (socket.gethostname(), 200),
            ("evil.example", 403),
        ):
            assert requests.get(here, headers={"Host": host}, timeout=60).status_code == status
        listening.shutdown()
        thread.join()


def test_it_gives_what_predict_gives(
    address: str, checkpoint: Path, image: Path, tmp_path: Path
) -> None:
    told = requests.post(
        f"{address}/predict", image.read_bytes(), params={"name": "<a> b.png"}, timeout=60
    )
    assert told.status_code == 200 and told.text.count("<img ") == 2
    assert "<a>" not in told.text and "_a_ b.png" in told.text
    (data,) = re.findall('application/zip;base64,([^"]*)"', told.text)
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(data)))
    folders = {name.partition("/")[0] for name in archive.namelist()}
    assert folders == {
        *("masks", "labels", "probabilities", "overlays", "geojson", "rois", "objects.csv")
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "in/_a_ b.png").write_bytes(image.read_bytes())
    argv = ["predict", f"--ckpt_path={checkpoint}", f"--data.images={tmp_path / 'in'}", "--labels"]
    assert main([*argv, f"--output={tmp_path / 'out'}", "--device=cpu"]) == 0
    labels = tifffile.imread(io.BytesIO(archive.read("labels/_a_ b.tif")))
    np.testing.assert_array_equal(labels, read_image(tmp_path / "out/labels/_a_ b.tif")[..., 0])
    ours = list(csv.reader(io.StringIO(archive.read("objects.csv").decode())))
    theirs = (tmp_path / "out/objects.csv").read_text()
    assert ours == list(csv.reader(io.StringIO(theirs)))
    assert f"<td>objects</td><td>{labels.max()}</td>" in told.text


TIFF = io.BytesIO()
tifffile.imwrite(TIFF, np.zeros((40, 40), np.uint8))
STACK = io.BytesIO()
tifffile.imwrite(STACK, np.zeros((2, 20, 20), np.uint8), photometric="minisblack")


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("notes.txt", b"hello", "notes.txt: is no .png, .tif"),
        ("", b"hello", "image: is no .png, .tif"),
        ("../../x.png", b"hello", ">x.png: "),
        ("x.tif", b"II*\x00", ">x.tif: "),
        ("x.png", b"", "an image file has 1 to 9,999 bytes, not 0"),
        ("x.png", b"x" * 10_000, "bytes, not 10000"),
        ("a.tif", STACK.getvalue(), "a.tif: a stack; the page takes one plane"),
        ("a.tif", TIFF.getvalue(), "a.tif: is too large for a page; use segmentation"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    address: str, name: str, data: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation.predict.outputs.STREAMED", 100)
    monkeypatch.setattr("segmentation.app.server.LARGEST", 9999)
    told = requests.post(f"{address}/predict", data, params={"name": name}, timeout=60)
    assert told.status_code == 400 and told.text.startswith('<p class="bad">')
    assert why in told.text and "/tmp" not in told.text and "\n" not in told.text


def test_what_cannot_be_listened_on(
    checkpoint: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["serve", f"--ckpt_path={checkpoint}", "--device=cpu", "--port"]
    assert "choose --port" in refusal(capsys, [*argv, address.rpartition(":")[2]])
    assert "choose --port" in refusal(capsys, [*argv, "70000"])


def test_the_command_leaves_nothing_behind(checkpoint: Path, image: Path, tmp_path: Path) -> None:
    """Interrupted while an image is predicted, and while another client sends one."""
    argv = ["serve", f"--ckpt_path={checkpoint}", "--device=cpu", "--port=0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "segmentation", *argv]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in the background
    pipe: Any = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipe, preexec_fn=heard) as process:
        assert process.stdout is not None
        here = process.stdout.readline().split()[0]
        assert "best.ckpt" in requests.get(here, timeout=60).text
        host, port = here.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            for _ in range(2):
                told = requests.post(
                    f"{here}/predict", image.read_bytes(), params={"name": "a.png"}, timeout=60
                )
                assert told.status_code == 200
            busy = threading.Thread(target=_post, args=(here, image))
            busy.start()
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            busy.join()
    assert not [*tmp_path.iterdir()]


def _post(here: str, image: Path) -> None:
    with contextlib.suppress(requests.RequestException):
        requests.post(f"{here}/predict", image.read_bytes(), params={"name": "a.png"}, timeout=60)


def test_a_network_that_answers_infinity(checkpoint: Path, image: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint)
    for tensor in content["state_dict"].values():
        tensor *= 1e30
    torch.save(content, tmp_path / "x.ckpt")
    model = segmentation.load(tmp_path / "x.ckpt", device="cpu")
    with pytest.raises(UserError, match=r"^a\.png: the network answers NaN or infinity"):
        result(model, "a.png", image.read_bytes(), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]
