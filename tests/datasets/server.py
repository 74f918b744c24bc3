"""A web server in a thread that can do what real ones do: break off, change files, show pages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """How one request is answered.

    Attributes:
        data: The file.
        status: Any but 200 is sent without the file.
        ranges: Whether Range is obeyed; "blindly" also where If-Range does not hold.
        headers: Sent in addition; an ETag is what If-Range is compared to, or else Last-Modified.
        drop: Break the connection off after so many bytes of the body.
        wait: Event to wait for in the middle of the body.
    """

    data: bytes = b""
    status: int = 200
    ranges: bool | str = True
    headers: dict[str, str] = field(default_factory=dict)
    drop: int | None = None
    wait: threading.Event | None = None


@dataclass
class Server:
    """What a test plans and sees.

    Attributes:
        url: Of the server, without a trailing slash.
        plan: Answers by path; the last of them is repeated.
        seen: (path, Range header or "") of each request.
    """

    url: str
    plan: dict[str, list[Answer]]
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def serving(plan: dict[str, list[Answer]]) -> Iterator[Server]:
    """Serve until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            server.seen.append((path, self.headers.get("Range", "")))
            answers = server.plan.get(path, [Answer(status=404)])
            send(self, answers.pop(0) if len(answers) > 1 else answers[0])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that was killed
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}", plan)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def send(request: BaseHTTPRequestHandler, answer: Answer) -> None:
    """The answer to a request, with its faults."""
    wanted, body, headers = request.headers.get("Range", ""), answer.data, dict(answer.headers)
    version = headers.get("ETag") or headers.get("Last-Modified")
    same = request.headers.get("If-Range") == version or answer.ranges == "blindly"
    status = answer.status
    if wanted and answer.ranges and same and status == 200:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start < len(body):
            status, whole = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
        else:
            status, whole = 416, f"bytes */{len(body)}"
        headers.setdefault("Content-Range", whole)
        body = body[start:]
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    end = len(body) if answer.drop is None else answer.drop
    request.wfile.write(body[: end // 2])
    request.wfile.flush()
    if answer.wait is not None:
        answer.wait.wait(20)
    request.wfile.write(body[end // 2 : end])
