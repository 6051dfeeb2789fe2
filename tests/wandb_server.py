"""A stand-in for the W&B service: keeps the history lines of each run as the service would.

Only what a run of the launcher sends is answered; artifacts, sweeps and the web pages are not.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Holds what arrived: a line of history overwrites the one that has its offset."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.history: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.config: dict[str, dict[str, Any]] = {}
        self.exit_code: dict[str, int] = {}
        self.wedged = threading.Event()
        """Once set, every request is accepted and never answered."""
        self.refuses = threading.Event()
        """Once set, history is answered with 403."""
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        lines = self.history[run_id]
        return [lines[offset] for offset in sorted(lines)]

    def handle_error(self, *_: object) -> None:
        """A client that was killed, or gave up, is what some tests are about."""

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "UpsertBucket":
                name = variables["name"]
                self.config[name] = json.loads(variables.get("config") or "{}")
                project = {"id": "p", "name": variables["project"], "entity": {"name": "us"}}
                run = {"id": "r", "name": name, "displayName": name, "project": project}
                return {"upsertBucket": {"bucket": run, "inserted": True}}
            case "RunResumeStatus":
                return {"model": {"id": "p", "name": "p", "bucket": self._known(variables["name"])}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": self.url} for name in variables["files"]]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {"viewer": {"id": "u", "entity": "us", "username": "us", "flags": "{}"}}

    def _known(self, run_id: str) -> dict[str, Any] | None:
        if run_id not in self.config:
            return None
        rows = self.rows(run_id)
        tail = [json.dumps(row) for row in rows[-1:]]
        return {
            "id": "r",
            "name": run_id,
            "summaryMetrics": "{}",
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps(self.config[run_id]),
            "wandbConfig": json.dumps({"t": 1}),
        }

    def file_stream(self, run_id: str, body: dict[str, Any]) -> None:
        history = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for offset, line in enumerate(history["content"], start=history["offset"]):
            self.history[run_id][offset] = json.loads(line)
        if body.get("complete"):
            self.exit_code[run_id] = body["exitcode"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.wedged.is_set():
            self.server.stopped.wait()
        answer: dict[str, Any] = {}
        if self.path.endswith("/graphql"):
            query = json.loads(body)
            answer = {"data": self.server.graphql(query["operationName"], query["variables"] or {})}
        elif self.path.endswith("/file_stream"):
            self.server.file_stream(self.path.split("/")[-2], json.loads(body))
        content = json.dumps(answer).encode()
        refused = self.server.refuses.is_set() and self.path.endswith("/file_stream")
        self.send_response(403 if refused else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST  # uploads of config.yaml and the like

    def log_message(self, *_: object) -> None:
        """A test's output is not the place for an access log."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serves until the block ends."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()
