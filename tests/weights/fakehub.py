"""A hub on loopback: as much of the Hugging Face protocol as downloads need, plain files at /files/, and its faults.

faults: {file: fault}. "flip" changes a byte of every answer; "truncate" ends early and says so in Content-Length;
("cut", [0.1, 0.5]) breaks the connection at these parts of the file, one a request; ("cut, no range", [...]) also
ignores Range; ("busy", 2) answers 503 so often; ("redirect", URL) sends elsewhere; ("size", N) announces N bytes; "no
etag", ("etag", TEXT); "no commit"; "other range" gives another part than the one asked for; ("no head", STATUS) answers
a HEAD so; ("silent", SECONDS) says nothing for so long.
`log` has (method, path, Range, Authorization); `sent` the bytes of all bodies of files.
"""

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repos=(), licences=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.licences, self.gated, self.renamed = dict(repos), dict(licences), set(), {}
        self.cards = {}  # the header of a repository's card, by name
        self.files, self.faults, self.uploads, self.log, self.sent = {}, {}, {}, [], 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo):
        rows = sorted((name, hashlib.sha1(body).hexdigest()) for name, body in self.repos[repo].items())
        return hashlib.sha1(repr(rows).encode()).hexdigest()

    def requests(self, method=""):
        return [row for row in self.log if row[0] == method or not method]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, code, body=b"", length=None, **head):
        self.send_response(code)
        rows = {"Content-Length": len(body) if length is None else length, **head}
        for name, value in rows.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(self.path.split("?")[0])
        hub.log.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self.answer_about(match[1])
        if match := re.fullmatch(r"/files/(.+)", path):
            body = hub.files.get(match[1])
            return self.answer(404) if body is None else self.answer_file(match[1], body, {})
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match and match[1] in hub.renamed:
            return self.answer(307, Location=path.replace(match[1], hub.renamed[match[1]]))
        if not match or match[1] not in hub.repos:
            return self.answer(404, b"Repository not found", X_Error_Code="RepoNotFound")
        repo, revision, file = match.groups()
        commit = hub.commit(repo)
        if repo in hub.gated and not self.headers.get("Authorization"):
            return self.answer(401, b"gated", X_Error_Code="GatedRepo")
        if revision not in ("main", commit):
            return self.answer(404, b"Revision not found", X_Error_Code="RevisionNotFound")
        body = hub.repos[repo].get(file)
        if body is None:
            return self.answer(404, b"Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        is_small = file.endswith(".json")  # kept in git, not in LFS
        etag = git_hash(body) if is_small else hashlib.sha256(body).hexdigest()
        head = {"ETag": f'"{etag}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        head |= {} if is_small else {"X_Linked_ETag": f'"{etag}"', "X_Linked_Size": len(body)}
        return self.answer_file(file, body, head)

    def do_PUT(self):
        """A large file: /put/SHA."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.log.append(("PUT", self.path, None, None))
        self.server.uploads[self.path.split("?")[0].rpartition("/")[2]] = body
        self.answer(200)

    def do_POST(self):
        """What publishing needs: a repository is made, files are announced, large ones uploaded, all committed."""
        hub, path = self.server, unquote(self.path.split("?")[0])
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.log.append(("POST", path, None, self.headers.get("Authorization")))
        given = {} if path.endswith("/commit/main") else json.loads(text or b"{}")
        if path == "/api/repos/create":
            repo = f"{given['organization']}/{given['name']}"
            hub.repos.setdefault(repo, {})
            return self.answer_json({"url": f"{hub.url}/{repo}", "name": repo, "id": repo})
        if path.endswith("/preupload/main"):
            modes = [("lfs" if f["path"].endswith(".safetensors") else "regular", f["path"]) for f in given["files"]]
            return self.answer_json(
                {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for mode, name in modes]}
            )
        if path.endswith("/lfs/objects/batch"):
            rows = [{**one, "actions": {"upload": {"href": f"{hub.url}/put/{one['oid']}"}}} for one in given["objects"]]
            return self.answer_json({"transfer": "basic", "objects": rows})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for row in map(json.loads, text.splitlines()):
                value = row["value"]
                if row["key"] == "file":
                    hub.repos[match[1]][value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    hub.repos[match[1]][value["path"]] = hub.uploads[value["oid"]]
            return self.answer_json({"commitUrl": f"{hub.url}/{match[1]}/commit/1", "commitOid": "1" * 40})
        return self.answer_json({"warnings": [], "errors": []})

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def answer_about(self, repo):
        hub = self.server
        repo = hub.renamed.get(repo, repo)
        if repo not in hub.repos:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        licence = hub.licences.get(repo)
        about = {
            "id": repo, "sha": hub.commit(repo), "tags": [f"license:{licence}"] if licence else [],
            "gated": repo in hub.gated, "cardData": hub.cards.get(repo, {}),
            "siblings": [{"rfilename": name, "size": len(body)} for name, body in hub.repos[repo].items()],
        }  # fmt: skip
        return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")

    def answer_file(self, file, body, head):
        hub, fault = self.server, self.server.faults.get(file)
        kind, detail = fault if isinstance(fault, tuple) else (fault, None)
        if kind == "busy" and self.command == "GET" and detail:
            hub.faults[file] = ("busy", detail - 1)
            return self.answer(503, b"down")
        if kind == "redirect":
            return self.answer(302, b"", Location=detail, **head)
        if kind == "size":
            head["X_Linked_Size" if "X_Linked_Size" in head else "Content_Length"] = detail
        if kind == "etag":
            head["X_Linked_ETag"] = f'"{detail}"'
        if kind == "no commit":
            head.pop("X_Repo_Commit", None)
        if kind == "no head" and self.command == "HEAD":
            return self.answer(detail)
        if kind == "silent":
            time.sleep(detail)
        if kind == "no etag":
            head = {k: v for k, v in head.items() if "ETag" not in k}
        if self.command == "HEAD":
            return self.answer(200, length=head.pop("Content_Length", len(body)), **head)
        if kind == "flip":
            body = body[:100] + bytes([body[100] ^ 1]) + body[101:]
        if kind == "truncate":
            body = body[: len(body) // 2]
        first = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(first[1]) if first and kind != "cut, no range" else 0
        if start >= len(body) and start:
            return self.answer(416, Content_Range=f"bytes */{len(body)}")
        end = len(body)
        if kind in ("cut", "cut, no range") and detail:
            end = max(start, int(len(body) * detail.pop(0)))
        part = body[start:end]
        hub.sent += len(part)
        if start:
            shown = start + (kind == "other range")
            head["Content_Range"] = f"bytes {shown}-{len(body) - 1}/{len(body)}"
        self.answer(206 if start else 200, part, length=len(body) - start, **head)
        if end < len(body):
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(2)


def git_hash(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
