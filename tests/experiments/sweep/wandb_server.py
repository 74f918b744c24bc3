"""As much of W&B's server as ``wandb sweep``, ``wandb agent`` and a run need, in a thread.

It serves grids: each combination once, a run that is requeued (``requeue``) once more. It answers
the operations that the client sends by their names, and keeps what the runs log.
"""

import base64
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


@dataclass
class Run:
    """A run as the server sees it.

    Attributes:
        args: Value of each parameter.
        agent: Who has it now.
        state: ``running``, ``finished``, ``failed`` or ``preempted``, as agents and runs tell.
        preempting: Whether it said that it will end for no fault of its own.
        history: What it logged.
        rewound: Lines of the history that came at a place where there was one already.
        files: Names of what it uploaded.
        config: What it says of itself.
        starts: How often it was handed out.
    """

    name: str
    args: dict[str, Any]
    agent: str = ""
    state: str = "pending"
    preempting: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    rewound: int = 0
    files: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    exitcode: int | None = None
    starts: int = 0


@dataclass
class Server:
    """What a test sees, and what it may change.

    Attributes:
        url: Of the server.
        config: Of the sweep, as ``wandb sweep`` sent it.
        runs: By name; those that an agent was given.
        operations: Names of the operations that were asked for.
        unknown: Operations that had no answer.
        hold: Names of runs to hand out again, to whichever agent comes first.
        secrets: What those who asked logged in with.
        stopping: Names of runs that are to end, as early termination wants it.
    """

    url: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    hold: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    stopping: set[str] = field(default_factory=set)
    agents: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requeue(self, name: str) -> None:
        """Hand a run out again, as W&B does with what was preempted."""
        with self.lock:
            self.hold.append(name)

    def answer(self, operation: str, query: str, given: dict[str, Any]) -> Any:
        project = {"id": "p", "name": "project", "entity": {"id": "e", "name": "entity"}}
        if operation == "UpsertSweep":
            self.config = yaml.safe_load(given["config"])
            self.combinations = self._grid()
            sweep = {"name": "sweep1", "project": project}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            sweep = {
                "id": "s", "name": "sweep1", "method": "grid", "state": "RUNNING",
                "config": yaml.safe_dump(self.config), "runs": {"edges": []},
            }  # fmt: skip
            return {"project": {"sweep": sweep}}
        if operation == "CreateAgent":
            name = f"agent{len(self.agents)}"
            self.agents[name] = []
            return {"createAgent": {"agent": {"id": name}}}
        if operation == "Heartbeat":
            commands = self._heartbeat(given["id"], json.loads(given["runState"]))
            agent = {"id": given["id"]}
            return {"agentHeartbeat": {"agent": agent, "commands": json.dumps(commands)}}
        if operation == "RunShouldStop":
            stop = given["run"] in self.stopping
            return {"project": {"run": {"shouldStop": stop, "stopped": False}}}
        if operation == "RunResumeStatus":
            known = self.runs.get(given["name"])
            bucket = self._resumed(known) if known and known.history else None
            return {"model": {**project, "bucket": bucket}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(given["name"], Run(given["name"], {}))
            run.config |= json.loads(given.get("config") or "{}")
            if run.state == "pending":  # what a killed run's process sends late changes nothing
                run.state = "running"
            bucket = {
                "id": run.name, "name": run.name, "displayName": run.name, "description": "",
                "config": None, "sweepName": "sweep1", "project": project, "historyLineCount": 0,
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            self.runs[given["run"]].files |= set(given["files"])
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]
            ]
            made = {"runID": "r", "uploadHeaders": [], "files": files}
            return {"createRunFiles": made}
        if operation == "Viewer":
            viewer = {
                "id": "v", "entity": "entity", "username": "user", "email": "user@example.org",
                "flags": "{}", "teams": {"edges": [{"node": {"name": "entity"}}]}, "admin": False,
            }  # fmt: skip
            return {"viewer": viewer}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if "__type" in query or "__schema" in query:
            fields = re.findall(r"(\w+)\s*:\s*__type", query)
            return {name: {"fields": [], "inputFields": [], "args": []} for name in fields}
        return None

    def _resumed(self, run: Run) -> dict[str, Any]:
        return {
            "id": run.name, "name": run.name, "displayName": run.name, "summaryMetrics": "{}",
            "logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(run.history[-1])]), "eventsTail": "[]",
            "config": json.dumps(run.config), "tags": [], "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip

    def _grid(self) -> Iterator[dict[str, Any]]:
        parameters = dict(sorted(self.config["parameters"].items()))
        lists = [p["values"] if "values" in p else [p["value"]] for p in parameters.values()]
        for values in itertools.product(*lists):
            yield dict(zip(parameters, values, strict=True))

    def _heartbeat(self, agent: str, running: dict[str, bool]) -> list[dict[str, Any]]:
        with self.lock:
            if running:
                ending = self.stopping.intersection(running)
                return [{"type": "stop", "run_id": name} for name in ending]
            if self.hold:
                run = self.runs[self.hold.pop(0)]
                kind, more = "resume", {"_wandb": {"value": {"requeued": True}}}
            else:
                values = next(self.combinations, None)
                if values is None:
                    return [{"type": "exit"}]
                run = Run(f"run{len(self.runs)}", values)
                self.runs[run.name] = run
                kind, more = "run", {}
            run.agent, run.state, run.starts = agent, "running", run.starts + 1
            self.agents[agent].append(run.name)
            args = {name: {"value": value} for name, value in run.args.items()} | more
            program = self.config.get("program", "")
            return [{"type": kind, "run_id": run.name, "program": program, "args": args}]

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """What a run sends while it goes on."""
        run = self.runs[name]
        chunk = sent.get("files", {}).get("wandb-history.jsonl", {})
        lines = [json.loads(line) for line in chunk.get("content", [])]
        place = chunk.get("offset", 0)
        run.rewound += len(run.history[place : place + len(lines)])
        run.history[place : place + len(lines)] = lines
        run.preempting |= bool(sent.get("preempting"))
        if sent.get("complete"):
            run.exitcode = sent.get("exitcode")
            run.state = "finished" if not run.exitcode else "failed"


@contextmanager
def serving() -> Iterator[Server]:
    """Serve until the end of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            if found:
                server.stream(found[1], json.loads(body))
                return self._send({"exitcode": None, "limits": {}})
            if self.path != "/graphql":
                return self._send({})
            login = self.headers.get("Authorization", "").removeprefix("Basic ")
            server.secrets.add(base64.b64decode(login).decode().partition(":")[2])
            asked = json.loads(body)
            query = asked["query"]
            name = re.search(r"(?:query|mutation)\s+(\w+)", query)
            operation = name[1] if name else query.split()[0]
            server.operations.append(operation)
            data = server.answer(operation, query, asked.get("variables") or {})
            if data is None:
                server.unknown.append(f"{operation}: {query}")
                return self._send({"errors": [{"message": f"unknown: {operation}"}]})
            return self._send({"data": data})

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send({})

        def do_GET(self) -> None:
            self._send({})

        def _send(self, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that are killed break their connections off."""

    httpd = Quiet(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
