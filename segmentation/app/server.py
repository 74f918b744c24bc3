"""A page in the browser that tries trained networks on one image after another."""

import base64
import io
import math
import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.evaluation.html import data_url, document, facts, figure, table
from segmentation.io.files import write_table
from segmentation.io.images import IMAGE_SUFFIXES
from segmentation.io.stacks import open_planes
from segmentation.predict.outputs import Outputs
from segmentation.predict.outputs.measurements import OBJECT_COLUMNS
from segmentation.predict.prediction import STREAMED, predict_file, write_prediction
from segmentation.task import SegmentationTask

LARGEST = 2**28  # bytes of an image file
SHOWN = ("object", "area", "centroid_y", "centroid_x", "intensity_mean", "eccentricity", "border")
STYLE = "#drop{border:2px dashed #999;padding:2em;text-align:center}#drop.over{background:#eef}"
SCRIPT = """
const drop = document.getElementById("drop"), shown = document.getElementById("result");
async function send(file) {
  if (!file) return;
  shown.textContent = file.name + " …";
  try {
    const address = "/predict?name=" + encodeURIComponent(file.name);
    shown.innerHTML = await (await fetch(address, {method: "POST", body: file})).text();
  } catch (error) { shown.textContent = "The server does not answer: " + error; }
}
document.querySelector("input").onchange = event => send(event.target.files[0]);
drop.ondragover = event => { event.preventDefault(); drop.className = "over"; };
drop.ondragleave = () => { drop.className = ""; };
drop.ondrop = event => {
  event.preventDefault(); drop.className = ""; send(event.dataTransfer.files[0]);
};
"""


def server(tasks: Sequence[SegmentationTask], title: str, host: str, port: int) -> HTTPServer:
    """A server that listens; ``serve_forever`` answers one image at a time, and keeps none.

    Args:
        tasks: An ensemble, or one, in evaluation mode.
        title: What is tried, for the page.
        host: Address to listen on; 127.0.0.1 is this machine alone.
        port: 0 takes a free one.

    Raises:
        UserError: The address cannot be listened on.
    """

    class Handler(_Handler):
        pass

    Handler.tasks, Handler.title = tasks, title
    try:
        return HTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot be listened on ({error}); choose --port") from None


class _Handler(BaseHTTPRequestHandler):
    tasks: Sequence[SegmentationTask]
    title: str

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/":
            return self._answer(HTTPStatus.NOT_FOUND, "no such page")
        kinds = ",".join(IMAGE_SUFFIXES)
        body = (
            f"<h1>{escape(self.title)}</h1><p id='drop'>Drop an image here, or choose one: "
            f"<input type='file' accept='{kinds}'></p><div id='result'></div>"
            f"<script>{SCRIPT}</script>"
        )
        self._answer(HTTPStatus.OK, document(self.title, body, STYLE))

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        if address.path != "/predict":
            return self._answer(HTTPStatus.NOT_FOUND, "no such page")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= LARGEST:
            self.close_connection = True  # what it sends is not read
            return self._refuse(f"an image file has 1 to {LARGEST:,} bytes, not {length or 'none'}")
        name = parse_qs(address.query).get("name", [""])[0]
        try:
            self._answer(HTTPStatus.OK, result(self.tasks, name, self.rfile.read(int(length))))
        except UserError as error:
            self._refuse(str(error))

    def _refuse(self, why: str) -> None:
        self._answer(HTTPStatus.BAD_REQUEST, f"<p class='bad'>{escape(why)}</p>")

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


def result(tasks: Sequence[SegmentationTask], name: str, data: bytes) -> str:
    """What is shown of one image file, as HTML: overlay, counts, objects, and all files in a zip.

    Args:
        tasks: An ensemble, or one.
        name: The file's name; its ending says what it is.
        data: The file.

    Raises:
        UserError: It is no image, broken, or too large for a page.
    """
    name = re.sub(r"[^\w.\- ]", "_", Path(name).name) or "image"
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{name}: is no {', '.join(IMAGE_SUFFIXES)}; save it as one of these")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        outputs = Outputs(Path(folder, "results"), "tiff", True, True, True, False, True)
        try:
            planes = open_planes(path, min(task.preprocess.channels for task in tasks))
            if planes.size is not None and math.prod(planes.size) > STREAMED:
                raise UserError(f"{path}: is too large for a page; use segmentation predict")
            found = predict_file(tasks, planes, outputs, name, Path(name).stem)
            write_prediction(found, outputs, Path(name).stem)
            objects = found.tables["objects"]
            write_table(outputs.folder / "objects.csv", OBJECT_COLUMNS, objects)
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None
        archive = _zip(outputs.folder)
        image = Preprocess(channels=3).prepare(next(iter(planes)))
    pictures = figure(data_url(image), escape(name))
    pictures += figure(data_url(found.overlays[0]), "objects")
    count = facts([(key, str(value)) for key, value in found.tables["images"][0].items()])
    rows = [[_short(row[key]) for key in SHOWN] for row in objects]
    link = f"<a download='{Path(name).stem}.zip' href='data:application/zip;base64,{archive}'>"
    link += "All results (masks, labels, probabilities, outlines, measurements)</a>"
    return f"{pictures}<p>{link}</p>{count}{table(SHOWN, rows, 'objects.csv')}"


def _zip(folder: Path) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, path.relative_to(folder))
    return base64.b64encode(buffer.getvalue()).decode()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
