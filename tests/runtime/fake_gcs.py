"""A bucket on localhost: as much of the JSON API of Cloud Storage as gcsfs, tensorstore and
google-cloud-storage speak, with generations and preconditions, kept in memory.

Published emulators ignore `ifGenerationMatch`, without which no claim can be tested.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import os
import re
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Stored(NamedTuple):
    body: bytes
    generation: int
    made: float


class FakeGcs:
    """Buckets with their objects. `forbidden` buckets answer 403, unknown ones 404.

    `requests` records (method, path, query) of everything asked; `skew` shifts the server's clock;
    `slow` maps a part of a path to seconds of delay; `broken` to how often it answers 503 first.
    """

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
        self.forbidden: set[str] = set()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.slow: dict[str, float] = {}
        self.broken: dict[str, int] = {}
        self.skew = 0.0
        self.lock = threading.RLock()
        self.uploads: dict[str, tuple[str, str, bytearray, dict[str, str]]] = {}
        self.generations = itertools.count(int(time.time() * 1e6))
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # Of this process; `start` hands it to the libraries.
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "NO_GCE_CHECK": "true",
        }

    def start(self) -> FakeGcs:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, bucket: str, key: str, body: bytes) -> Stored:
        with self.lock:
            found = Stored(body, next(self.generations), time.time() + self.skew)
            self.buckets[bucket][key] = found
            return found

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        with self.lock:
            return sorted(k for k in self.buckets[bucket] if k.startswith(prefix))

    def age(self, bucket: str, key: str, seconds: float) -> None:
        """Makes an object look as if it had been written that long ago."""
        with self.lock:
            found = self.buckets[bucket][key]
            self.buckets[bucket][key] = found._replace(made=found.made - seconds)


@functools.cache
def server() -> FakeGcs:
    """The one of this process, to which the libraries are told to speak from now on."""
    found = FakeGcs().start()
    os.environ.update(found.environment)
    return found


def bucket(name: str) -> str:
    """A fresh empty bucket; returns gs://NAME."""
    server().buckets[name] = {}
    return f"gs://{name}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away (a killed run) is no error of the server."""


class Answer(Exception):
    """What is said instead of a result."""

    def __init__(self, status: int, message: str = ""):
        super().__init__(message)
        self.status, self.message = status, message


def _about(bucket: str, key: str, o: Stored) -> dict[str, Any]:
    when = datetime.fromtimestamp(o.made, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    crc = google_crc32c.value(o.body).to_bytes(4, "big")
    return {
        "kind": "storage#object",
        "name": key,
        "bucket": bucket,
        "size": str(len(o.body)),
        "generation": str(o.generation),
        "metageneration": "1",
        "updated": when,
        "timeCreated": when,
        "md5Hash": base64.b64encode(hashlib.md5(o.body).digest()).decode(),
        "crc32c": base64.b64encode(crc).decode(),
        "storageClass": "STANDARD",
    }


def _payload(part: bytes) -> bytes:
    """What follows the headers of one part of a multipart body."""
    line = b"\r\n" if part.startswith(b"\r\n") else b"\n"
    return part.removeprefix(line).partition(2 * line)[2].removesuffix(line)


def _handler(gcs: FakeGcs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:  # killed in the middle: no object is made of it
                self.close_connection = True
                return
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.chunks()
            try:
                status, headers, out = self.route(self.command, self.path, body)
            except Answer as answer:
                about = {"error": {"code": answer.status, "message": answer.message}}
                status, headers, out = answer.status, {}, json.dumps(about).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(out)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = serve

        def chunks(self) -> bytes:
            out = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out

        def route(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
            url = urlsplit(target)
            query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
            gcs.requests.append((method, unquote(url.path), query))
            for part, seconds in list(gcs.slow.items()):
                if part in unquote(url.path):
                    time.sleep(seconds)
            with gcs.lock:
                for part, times in list(gcs.broken.items()):
                    if part in unquote(url.path) and times:
                        gcs.broken[part] -= 1
                        raise Answer(503, "try again")
                return self.answer(method, url.path, query, body)

        def answer(self, method, path, query, body) -> tuple[int, dict[str, str], bytes]:
            if "upload_id" in query:
                return self.more(query["upload_id"], body)
            found = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)(/o(?:/(.*))?)?", path)
            if not found:
                raise Answer(400, f"the fake knows no {method} {path}")
            kind, bucket, objects, rest = found.groups()
            if bucket in gcs.forbidden:
                raise Answer(403, "caller does not have storage.objects access to the bucket")
            if bucket not in gcs.buckets:
                raise Answer(404, "The specified bucket does not exist.")
            if not objects:
                return self.json({"kind": "storage#bucket", "name": bucket, "location": "HERE"})
            if kind == "/upload":
                return self.upload(bucket, query, body)
            if rest is None:
                return self.json(self.listing(bucket, query))
            if copy := re.fullmatch(r"(.*)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.*)", rest):
                source, target, name = map(unquote, copy.groups())
                made = gcs.put(target, name, self.get(bucket, source).body)
                about = _about(target, name, made)
                return self.json({"done": True, "resource": about, "objectSize": about["size"]})
            return self.one(method, bucket, unquote(rest), query)

        def one(self, method, bucket, key, query) -> tuple[int, dict[str, str], bytes]:
            if method == "DELETE":
                self.precondition(bucket, key, query)
                self.get(bucket, key)
                del gcs.buckets[bucket][key]
                return 204, {}, b""
            found = self.get(bucket, key)
            if query.get("alt") != "media":
                return self.json(_about(bucket, key, found))
            if query.get("ifGenerationNotMatch") == str(found.generation):
                return 304, {}, b""
            about = {"x-goog-generation": str(found.generation), "Content-Type": "text/plain"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if not wanted:
                return 200, about, found.body
            size, start = len(found.body), int(wanted[1])
            stop = min(int(wanted[2]) + 1 if wanted[2] else size, size)
            if start >= size:
                raise Answer(416, "range not satisfiable")
            about["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            return 206, about, found.body[start:stop]

        def get(self, bucket: str, key: str) -> Stored:
            if key not in gcs.buckets[bucket]:
                raise Answer(404, f"No such object: {bucket}/{key}")
            return gcs.buckets[bucket][key]

        def precondition(self, bucket: str, key: str, query: dict[str, str]) -> None:
            wanted = query.get("ifGenerationMatch")
            found = gcs.buckets[bucket].get(key)
            if wanted is not None and int(wanted) != (found.generation if found else 0):
                raise Answer(412, "At least one of the pre-conditions you specified did not hold.")

        def upload(self, bucket, query, body) -> tuple[int, dict[str, str], bytes]:
            kind, name = query.get("uploadType"), query.get("name", "")
            if kind == "resumable":
                name = name or json.loads(body)["name"]
                token = f"u{next(gcs.generations)}"
                gcs.uploads[token] = (bucket, name, bytearray(), query)
                where = f"{gcs.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable"
                return 200, {"Location": f"{where}&upload_id={token}"}, b""
            if kind == "multipart":
                mark = self.headers["Content-Type"].split("boundary=")[1].strip("\"'").encode()
                about, content = body.split(b"--" + mark)[1:3]
                name = name or json.loads(_payload(about))["name"]
                body = _payload(content)
            self.precondition(bucket, name, query)
            return self.json(_about(bucket, name, gcs.put(bucket, name, body)))

        def more(self, token: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
            bucket, name, sofar, query = gcs.uploads[token]
            span = self.headers.get("Content-Range", "")
            sofar += body
            total = span.rpartition("/")[2]
            if total == "*" or (total and len(sofar) < int(total)):
                return 308, {"Range": f"bytes=0-{len(sofar) - 1}"}, b""
            self.precondition(bucket, name, query)
            del gcs.uploads[token]
            return self.json(_about(bucket, name, gcs.put(bucket, name, bytes(sofar))))

        def listing(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
            prefix, mark = query.get("prefix", ""), query.get("delimiter", "")
            most = int(query.get("maxResults", 1000))
            after = query.get("pageToken", "")
            items, prefixes, token, last = [], [], "", ""
            for key in sorted(gcs.buckets[bucket]):
                if not key.startswith(prefix) or key <= after:
                    continue
                if key < query.get("startOffset", "") or key >= query.get("endOffset", "\uffff"):
                    continue
                if len(items) + len(prefixes) >= most:
                    token = last
                    break
                tail = key[len(prefix) :]
                if mark and mark in tail:
                    folder = prefix + tail.split(mark)[0] + mark
                    if folder not in prefixes:
                        prefixes.append(folder)
                else:
                    items.append(_about(bucket, key, gcs.buckets[bucket][key]))
                last = key
            found: dict[str, Any] = {"kind": "storage#objects"}
            if items:
                found["items"] = items
            if prefixes:
                found["prefixes"] = prefixes
            return found | ({"nextPageToken": token} if token else {})

        def json(self, about: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()

    return Handler
