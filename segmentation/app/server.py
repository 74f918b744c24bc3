"""A page in the browser that tries trained networks on one image after another."""

import base64
import io
import re
import sys
import tempfile
import zipfile
from collections import defaultdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from markupsafe import escape

from segmentation.checkpoints import load
from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.evaluation.overlays import data_url
from segmentation.evaluation.pages import render
from segmentation.io.files import write_table
from segmentation.io.images import IMAGE_SUFFIXES, read_image
from segmentation.io.stacks import open_planes
from segmentation.measurements import OBJECT_COLUMNS
from segmentation.predict.outputs import FileWriter, Outputs, is_streamed
from segmentation.predictor import Predictor

LARGEST = 2**28  # bytes of an image file
SHOWN = ("object", "area", "centroid_y", "centroid_x", "intensity_mean", "eccentricity", "border")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    ckpt_path: list[Path],
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    trust: list[str] | None = None,
) -> None:
    """Try trained checkpoints on one image after another, on a page in the browser.

    Whoever reaches the address may use it: there is no login. No image is kept.

    Args:
        ckpt_path: Written by fit, prune or export; the probabilities of several are averaged.
        device: auto, cpu, cuda, cuda:1, mps.
        host: Address to listen on (127.0.0.1: this machine alone).
        port: 0 takes a free one.
        trust: Your own packages whose classes a checkpoint may name: their code runs.
    """
    title = ", ".join(path.name for path in ckpt_path)
    predictor = load(*ckpt_path, device=device, trust=trust or ())
    with server(predictor, title, host, port) as listening:
        print(f"http://{host}:{listening.server_port} (Ctrl-C ends it)", flush=True)
        listening.serve_forever()


def server(predictor: Predictor, title: str, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; ``serve_forever`` predicts one image at a time, and keeps none."""
    parts = {"predictor": predictor, "title": title, "lock": Lock()}
    try:
        return ThreadingHTTPServer((host, port), type("Handler", (_Handler,), parts))
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot be listened on ({error}); choose --port") from None


class _Handler(BaseHTTPRequestHandler):
    predictor: Predictor
    title: str
    lock: Lock  # on the network; clients that are slow to send or to receive do not hold it
    timeout = 60

    def do_GET(self) -> None:
        if self._is_welcome("/"):
            page = render("serve.html", title=self.title, kinds=",".join(IMAGE_SUFFIXES))
            self._answer(HTTPStatus.OK, page)

    def do_POST(self) -> None:
        if not self._is_welcome("/predict"):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= LARGEST:
            self.close_connection = True  # what it sends is not read
            return self._refuse(f"an image file has 1 to {LARGEST:,} bytes, not {length or 'none'}")
        name = parse_qs(urlsplit(self.path).query).get("name", [""])[0]
        data = self.rfile.read(int(length))
        try:
            with self.lock:
                text = result(self.predictor, name, data)
            self._answer(HTTPStatus.OK, text)
        except UserError as error:
            self._refuse(str(error))

    def _is_welcome(self, path: str) -> bool:
        """Refuse other paths; and pages of other hosts, which a browser may be made to open."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        here = str(self.connection.getsockname()[0]) not in LOOPBACK
        here = here or urlsplit(f"//{host}").hostname in LOOPBACK
        welcome = here and (origin is None or urlsplit(origin).netloc == host)
        if welcome and urlsplit(self.path).path == path:
            return True
        self.close_connection = True  # what it sends is not read
        status = HTTPStatus.NOT_FOUND if welcome else HTTPStatus.FORBIDDEN
        self._answer(status, "no such page" if welcome else "this page is of another host")
        return False

    def _refuse(self, why: str) -> None:
        self._answer(HTTPStatus.BAD_REQUEST, f'<p class="bad">{escape(why)}</p>')

    def _answer(self, status: HTTPStatus, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *values: object) -> None:
        """Names of images and strangers' requests do not go to the terminal as they are."""
        print(repr(format % values)[1:-1], file=sys.stderr)


def result(predictor: Predictor, name: str, data: bytes) -> str:
    """What is shown of an image file, as HTML: overlay, counts, objects, and all files in a zip."""
    name = re.sub(r"[^\w.\- ]", "_", Path(name).name) or "image"
    stem = Path(name).stem
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{name}: is no {', '.join(IMAGE_SUFFIXES)}; save it as one of these")
    rows = defaultdict[str, list[Any]](list)
    with tempfile.TemporaryDirectory() as folder:
        path, outputs = Path(folder, name), Path(folder, "results")
        path.write_bytes(data)
        try:
            planes = open_planes(path, predictor.preprocess.channels)
            if is_streamed(planes):
                raise UserError(f"{path}: is too large for a page; use segmentation predict")
            wanted = Outputs(outputs, "tiff", True, True, True, False, True)
            writer = FileWriter(planes, wanted, name, stem)
            writer.write(predictor, lambda table, more: rows[table].extend(more))
            write_table(outputs / "objects.csv", OBJECT_COLUMNS, rows["objects"])
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for each in sorted(p for p in outputs.rglob("*") if p.is_file()):
                file.write(each, each.relative_to(outputs))
        images = [next(iter(planes)), read_image(outputs / writer.names["overlays"])]
    return render(
        "serve_result.html",
        name=name,
        stem=stem,
        urls=[data_url(Preprocess(channels=3).prepare(image)) for image in images],
        archive=base64.b64encode(archive.getvalue()).decode(),
        facts=[(key, str(value)) for key, value in rows["images"][0].items()],
        head=SHOWN,
        rows=[[row[key] for key in SHOWN] for row in rows["objects"]],
    )
