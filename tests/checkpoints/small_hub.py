"""A small Hugging Face hub on localhost: the few endpoints that downloading a model needs."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """repos: name -> {revision: folder}; the commit of a revision is a hash of its folder's path."""

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, Path]], gated: set[str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.gated = repos, gated
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quiet."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            folder = self.folder_of(name, revision)
            if folder is not None:
                files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
                siblings = [{"rfilename": file} for file in files]
                info = {"id": name, "modelId": name, "sha": commit_of(folder), "siblings": siblings, "tags": []}
                if parts[4:5] == ["tree"]:
                    sizes = [(file, (folder / file).stat().st_size) for file in files]
                    info = [{"type": "file", "path": file, "oid": "0" * 40, "size": size} for file, size in sizes]
                self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif len(parts) >= 5 and parts[2] == "resolve":
            name, file = "/".join(parts[:2]), "/".join(parts[4:])
            folder = self.folder_of(name, parts[3])
            if folder is None:
                return
            if name in self.server.gated:
                return self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
            body = (folder / file).read_bytes()
            if self.command == "GET":
                self.server.fetched.append(file)
            etag = f'"{hashlib.sha1(body).hexdigest()}"'
            self.reply(200, body, {"ETag": etag, "X-Repo-Commit": commit_of(folder)})
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def folder_of(self, name, revision):
        """The folder; None after an answer that there is none."""
        revisions = self.server.repos.get(name)
        if revisions is None:
            return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        by_commit = {commit_of(folder): folder for folder in revisions.values()}
        folder = revisions.get(revision) or by_commit.get(revision)
        return folder if folder is not None else self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})

    def reply(self, status, body, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def small_hub(repos, gated=()):
    """A running hub."""
    hub = Hub(repos, set(gated))
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
