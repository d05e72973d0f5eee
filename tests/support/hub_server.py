"""A server on the loopback that speaks the protocol of the Hugging Face hub, and serves plain files, with ranges."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

from pytest import MonkeyPatch

API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
TREE = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
NEVER = ["original/consolidated.safetensors", "model.gguf", "modeling_tiny.py", "tf_model.h5", "training_args.bin"]
NEVER += ["onnx/preprocessor_config.json", "tokenizer/tokenizer.json"]
LARGE = (".safetensors", ".bin", ".pth", ".model")  # which the hub keeps by their sha256


class Hub:
    """What the server has, and what it was asked.

    Attributes:
        repositories: by name, the folder of each revision.
        readers: of a gated repository, the tokens that may read it.
        files: plain files by their path on the server.
        cut: names of files whose next answer with a body ends in its middle.
        asked: method, path and range of each request, in order.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.readers: dict[str, set[str]] = {}
        self.files: dict[str, bytes] = {}
        self.cut: list[str] = []
        self.asked: list[str] = []
        self.url = ""

    def add(self, name: str, folder: Path, revision: str = "main") -> str:
        """Serve a folder as a repository; returns its commit."""
        self.repositories.setdefault(name, {})[revision] = folder
        return commit_of(folder)

    def fetched(self) -> list[str]:
        """The paths of files that were asked for whole or in part, not only for their size."""
        paths = [line.split()[1] for line in self.asked if line.startswith("GET")]
        return [path.rpartition("/resolve/")[2].partition("/")[2] for path in paths if "/resolve/" in path]

    def folder_of(self, name: str, revision: str) -> Path | None:
        folders = self.repositories.get(name, {})
        return folders.get(revision) or next((own for own in folders.values() if commit_of(own) == revision), None)


def commit_of(folder: Path) -> str:
    content = "".join(f"{path.relative_to(folder)} {digest_of(path)}" for path in files_in(folder))
    return hashlib.sha1(content.encode()).hexdigest()


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Answers(BaseHTTPRequestHandler):
    """The answers of a server with a `hub`."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub: Hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if path in hub.files:
            self._send(200, hub.files[path], name=path)
            return
        for form, answer in ((TREE, self._tree), (API, self._info), (FILE, self._file)):
            if found := form.fullmatch(path):
                self._of_repository(found.groupdict(), answer)
                return
        self._refuse(404, "EntryNotFound")

    def _of_repository(self, asked: dict[str, str], answer) -> None:
        hub, token = self.server.hub, (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token == "wrong":
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif asked["name"] not in hub.repositories:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif "file" in asked and token not in hub.readers.get(asked["name"], {token}):
            self._refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        elif (folder := hub.folder_of(asked["name"], asked["revision"] or "main")) is None:
            self._refuse(404, "RevisionNotFound")
        else:
            answer(asked, folder)

    def _info(self, asked: dict[str, str], folder: Path) -> None:
        siblings = [
            {"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size} for path in files_in(folder)
        ]
        self._send_json({"id": asked["name"], "sha": commit_of(folder), "siblings": siblings})

    def _tree(self, asked: dict[str, str], folder: Path) -> None:
        top = folder / (asked["folder"] or "")
        is_whole = "recursive=true" in urlsplit(self.path).query.lower()
        entries = []
        for path in sorted(top.rglob("*") if is_whole else top.iterdir()):
            entry = {"type": "file" if path.is_file() else "directory", "path": str(path.relative_to(folder))}
            entry |= {"oid": hashlib.sha1(str(path).encode()).hexdigest(), "size": 0}
            if path.is_file():
                entry["size"] = path.stat().st_size
                if path.suffix in LARGE:
                    entry["lfs"] = {"oid": digest_of(path), "size": entry["size"], "pointerSize": 134}
            entries.append(entry)
        self._send_json(entries)

    def _file(self, asked: dict[str, str], folder: Path) -> None:
        path = folder / asked["file"]
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        headers = {"ETag": f'"{digest_of(path)}"', "X-Repo-Commit": commit_of(folder)}
        self._send(200, path.read_bytes(), headers, path.name)

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str = "") -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"", {name: value for name, value in named.items() if value})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, name: str = "") -> None:
        """Answer with a body, or the range of it that is asked for."""
        headers = {**(headers or {}), "Accept-Ranges": "bytes"}
        if status == 200 and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            first, whole = int(asked[1]), len(body)
            status, body = 206, body[first:]
            headers["Content-Range"] = f"bytes {first}-{whole - 1}/{whole}"
        self.send_response(status)
        for header in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(*header)
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.server.hub.cut:
            self.server.hub.cut.remove(name)
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of the loopback while the block is open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    server.hub = hub = Hub()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def write_repository(folder: Path, *files: str, **fields: object) -> Path:
    """A repository of files with a few bytes each, config.json among them; an index names the shards."""
    shards = {name: name for name in files if "-of-" in name}
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"weight_map": shards}) if name.endswith("index.json") else name * 9)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **fields}))
    return folder


def environment_of(hub: Hub, home: Path) -> dict[str, str]:
    """Environment variables by which a process asks this hub, and keeps what it fetches in `home`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def point_at(hub: Hub, home: Path, patch: MonkeyPatch) -> None:
    """Let this process ask the hub, with an empty cache in `home` and without a token."""
    from huggingface_hub import constants

    from llava_hh.models.hub import _snapshot

    patch.delenv("HF_TOKEN", raising=False)
    for name, value in environment_of(hub, home).items():
        patch.setenv(name, value)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    _snapshot.cache_clear()
