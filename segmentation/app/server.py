"""A page in the browser that tries trained networks on one image after another."""

import base64
import io
import ipaddress
import re
import secrets
import socket
import sys
import tempfile
import zipfile
from collections import defaultdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from markupsafe import escape

from segmentation.checkpoints import load
from segmentation.errors import UserError, printable
from segmentation.evaluation.overlays import class_legend, data_url, to_rgb
from segmentation.evaluation.pages import render
from segmentation.io.files import write_table
from segmentation.io.images import IMAGE_SUFFIXES, read_image
from segmentation.io.stacks import open_planes
from segmentation.magnification import unsized
from segmentation.measurements import object_columns
from segmentation.predict.outputs import FileWriter, Outputs, is_streamed
from segmentation.predictor import Predictor

LARGEST = 2**28  # bytes of an image file
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SHOWN = ("object", "area", "centroid_y", "centroid_x", "intensity_mean", "eccentricity", "border")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSING = 10  # seconds that an image may still take when the server ends


def serve(
    ckpt_path: list[Path],
    channels: list[str] | None = None,
    pixel_size: float | None = None,
    diameter: float | Literal["auto"] | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    trust: list[str] | None = None,
) -> None:
    """Try trained checkpoints on one image after another, on a page in the browser.

    Whoever reaches the address may use it: there is no login. No image is kept.

    Args:
        ckpt_path: Written by fit, prune or export, or nuclei, which comes with the package; the
            probabilities of several are averaged.
        channels: Numbers (from 0) or names of the images' channels, as of predict.
        pixel_size: µm, of images whose files do not tell it.
        diameter: Of the objects in these images, in pixels, or auto, as of predict.
        device: auto, cpu, cuda, cuda:1, mps.
        host: Address to listen on (127.0.0.1: this machine alone).
        port: 0 takes a free one.
        trust: Your own packages whose classes a checkpoint may name: their code runs.
    """
    title = ", ".join(path.name for path in ckpt_path)
    predictor = load(*ckpt_path, device=device, trust=trust or ())
    predictor.adapt(channels, pixel_size, diameter)
    with server(predictor, title, host, port) as listening:
        print(f"http://{host}:{listening.server_port} (Ctrl-C ends it)", flush=True)
        listening.serve_forever()


def server(predictor: Predictor, title: str, host: str, port: int) -> "Server":
    """A server that listens; ``serve_forever`` predicts one image at a time, and keeps none."""
    try:
        return Server(predictor, title, host, port)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot be listened on ({error}); choose --port") from None


class Server(ThreadingHTTPServer):
    """The network, the one lock on it, and the one folder that files may be in, until the end."""

    def __init__(self, predictor: Predictor, title: str, host: str, port: int) -> None:
        self.predictor, self.title = predictor, title
        self.lock = Lock()  # clients that are slow to send or to receive do not hold it
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        super().__init__((host, port), _Handler)
        self.names = {*LOOPBACK}  # that a browser may know this server by, beside addresses
        self.open = host not in LOOPBACK
        if self.open:
            self.names |= {host, socket.gethostname().lower(), socket.getfqdn().lower()}

    def server_close(self) -> None:
        super().server_close()
        self.lock.acquire(timeout=CLOSING)  # nothing is begun after this
        self.folder.cleanup()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news worth a traceback."""
        print(printable(f"{client_address[0]}: {sys.exception()!r}"), file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60

    def do_GET(self) -> None:
        if self._is_welcome("/"):
            nonce = secrets.token_hex(16)
            kinds = ",".join(IMAGE_SUFFIXES)
            page = render("serve.html", title=self.server.title, kinds=kinds, nonce=nonce)
            self._answer(HTTPStatus.OK, page, nonce)

    def do_POST(self) -> None:
        if not self._is_welcome("/predict"):
            return
        length = self.headers.get("Content-Length", "")[:20]
        if not length.isdecimal() or not 0 < int(length) <= LARGEST:
            self.close_connection = True  # what it sends is not read
            return self._refuse(f"an image file has 1 to {LARGEST:,} bytes, not {length or 'none'}")
        name = parse_qs(urlsplit(self.path).query).get("name", [""])[0]
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            return  # it went away
        try:
            with self.server.lock:
                text = result(self.server.predictor, name, data, self.server.folder.name)
        except UserError as error:
            return self._refuse(str(error))
        except Exception as error:  # for want of memory, say; others are served all the same
            self.log_error("%r", error)
            why = f"the image cannot be predicted here ({type(error).__name__})"
            return self._refuse(why, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._answer(HTTPStatus.OK, text)

    def _is_welcome(self, path: str) -> bool:
        """Refuse other paths; and pages of other hosts, which a browser may be made to open."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        posts = self.command == "POST"
        ours = not posts or self.headers.get("Sec-Fetch-Site") in (None, "same-origin", "none")
        try:
            welcome = ours and self._is_known(urlsplit(f"//{host}").hostname or "")
            welcome = welcome and (origin is None or urlsplit(origin).netloc == host)
            if welcome and urlsplit(self.path).path == path:
                return True
        except ValueError:  # of brackets that hold no address
            welcome = False
        self.close_connection = True  # what it sends is not read
        status = HTTPStatus.NOT_FOUND if welcome else HTTPStatus.FORBIDDEN
        self._answer(status, "no such page" if welcome else "this page is of another host")
        return False

    def _is_known(self, host: str) -> bool:
        """Whether a host is this server: one by name may be any that was bound to its address."""
        if host in self.server.names:
            return True
        try:
            return self.server.open and ipaddress.ip_address(host) is not None
        except ValueError:
            return False

    def _refuse(self, why: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        self._answer(status, f'<p class="bad">{escape(printable(why))}</p>')

    def _answer(self, status: HTTPStatus, text: str, nonce: str = "") -> None:
        data = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        script = f"; script-src 'nonce-{nonce}'" if nonce else ""
        self.send_header("Content-Security-Policy", POLICY + script)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *values: object) -> None:
        """Names of images and strangers' requests do not go to the terminal as they are."""
        print(printable(format % values), file=sys.stderr)


def result(predictor: Predictor, name: str, data: bytes, place: str) -> str:
    """What is shown of an image file, as HTML: overlay, counts, objects, and all files in a zip.

    Files are written below ``place``, and gone when it returns.
    """
    name = re.sub(r"[^\w.\- ]", "_", Path(name).name)[-50:] or "image"
    stem, names = Path(name).stem, predictor.target.class_names
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{name}: is no {', '.join(IMAGE_SUFFIXES)}; save it as one of these")
    rows = defaultdict[str, list[Any]](list)
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        path, outputs = Path(folder, name), Path(folder, "results")
        path.write_bytes(data)
        try:
            planes = open_planes(path)
            if planes.axes:
                raise UserError(
                    f"{path}: a stack; the page takes one plane, segmentation predict all"
                )
            if is_streamed(planes):
                raise UserError(f"{path}: is too large for a page; use segmentation predict")
            wanted = Outputs(outputs, "tiff", True, True, True, False, True)
            writer = FileWriter(planes, wanted, name, stem)
            writer.write(predictor, lambda table, more: rows[table].extend(more))
            more = [name for row in rows["columns"] for name in row["names"]]
            write_table(outputs / "objects.csv", [*object_columns(names), *more], rows["objects"])
        except UserError as error:
            text = str(error).replace(f"{folder}/", "")
            raise UserError(text if text.startswith(name) else f"{name}: {text}") from None
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for each in sorted(p for p in outputs.rglob("*") if p.is_file()):
                file.write(each, each.relative_to(outputs))
        images = [next(iter(planes)), read_image(outputs / writer.names["overlays"])]
    about = rows["images"][0]
    return render(
        "serve_result.html",
        name=name,
        stem=stem,
        urls=[data_url(to_rgb(image)) for image in images],
        archive=base64.b64encode(archive.getvalue()).decode(),
        facts=[(k, str(v)) for k, v in about.items() if k != "sized"],
        doubt=unsized([about]),
        legend=class_legend(names),
        head=(head := (*SHOWN[:1], "class", *SHOWN[1:]) if names else SHOWN),
        rows=[[row[key] for key in head] for row in rows["objects"]],
    )
