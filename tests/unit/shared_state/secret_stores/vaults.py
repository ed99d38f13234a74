"""The four vaults on one loopback port, each as far as its own library asks: the same secrets behind all of them."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

AZURE_CHALLENGE = 'Bearer authorization="https://login.example/tenant", resource="https://vault.azure.net"'


class Vaults:
    """Running vaults.

    Attributes:
        secrets: what they hold.
        refusal: status and text that everything is answered with; None: proper answers.
        asked: names whose values were asked for.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.refusal: tuple[int, str] | None = None
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"vaults": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    vaults: Vaults
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"] or 0)) or b"{}"))

    do_PUT = do_POST

    def _answer(self, body: Any) -> None:
        url = urlsplit(self.path)
        if self.vaults.refusal is not None:
            status, text = self.vaults.refusal
            # in every vault's spelling at once
            error = {"__type": text, "message": text, "error": {"code": status, "message": text}}
            self._send(status, error)
        elif "x-amz-target" in self.headers:
            self._send(*self._aws(self.headers["x-amz-target"].partition(".")[2], body))
        elif url.path.startswith("/v1/projects/"):
            self._send(*self._google(url.path, parse_qs(url.query), body))
        elif url.path.startswith("/v1/vaults/"):
            self._send(*self._onepassword(url.path, parse_qs(url.query), body))
        elif "authorization" not in self.headers:
            self._send(401, {}, {"www-authenticate": AZURE_CHALLENGE})
        else:
            self._send(*self._azure(url.path, body))

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _value(self, name: str) -> str | None:
        self.vaults.asked.append(name)
        return self.vaults.secrets.get(name)

    def _aws(self, verb: str, body: Any) -> tuple[int, Any]:
        secrets = self.vaults.secrets
        missing = 400, {"__type": "ResourceNotFoundException", "message": "not there"}
        if verb == "ListSecrets":
            return 200, {"SecretList": [{"Name": name} for name in secrets]}
        if verb == "GetSecretValue":
            value = self._value(body["SecretId"])
            assert body["VersionStage"] == "AWSCURRENT"
            return missing if value is None else (200, {"Name": body["SecretId"], "SecretString": value})
        name = body.get("SecretId") or body["Name"]
        if verb == "PutSecretValue" and name not in secrets:
            return missing
        secrets[name] = body["SecretString"]
        return 200, {"Name": name}

    def _google(self, path: str, query: Any, body: Any) -> tuple[int, Any]:
        secrets, parts = self.vaults.secrets, path.split("/")
        missing = 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "not there"}}
        if path.endswith(":access"):
            value = self._value(parts[5])
            if not value:
                return missing
            return 200, {"name": path, "payload": {"data": base64.b64encode(value.encode()).decode()}}
        if path.endswith(":addVersion"):
            name = parts[5].removesuffix(":addVersion")
            if name not in secrets:
                return missing
            secrets[name] = base64.b64decode(body["payload"]["data"]).decode()
            return 200, {"name": path}
        if body is not None:
            secrets[query["secretId"][0]] = ""
            return 200, {"name": path}
        return 200, {"secrets": [{"name": f"{path[4:]}/{name}"} for name in secrets]}

    def _azure(self, path: str, body: Any) -> tuple[int, Any]:
        secrets, home = self.vaults.secrets, "https://mesh.vault.azure.net/secrets"
        if path.strip("/") == "secrets":
            return 200, {"value": [{"id": f"{home}/{name}", "attributes": {}} for name in secrets]}
        name = path.split("/")[2]
        if body is not None:
            secrets[name] = body["value"]
        value = self._value(name)
        if value is None:
            return 404, {"error": {"code": "SecretNotFound", "message": "not there"}}
        return 200, {"value": value, "id": f"{home}/{name}/1", "attributes": {}}

    def _onepassword(self, path: str, query: Any, body: Any) -> tuple[int, Any]:
        secrets, parts = self.vaults.secrets, path.split("/")
        if self.headers["authorization"] != "Bearer connect-token":
            return 401, {"status": 401, "message": "no"}
        if body is not None:
            value = next(field["value"] for field in body["fields"] if field["type"] == "CONCEALED")
            secrets[body["title"]] = value
            return 200, _item(body["title"], value)
        if len(parts) > 5:
            name = unquote(parts[5]).removeprefix("id-")
            return 200, _item(name, self._value(name) or "")
        wanted = query.get("filter", [""])[0].removeprefix('title eq "').removesuffix('"')
        return 200, [_item(name, None) for name in secrets if wanted in ("", name)]


def _item(name: str, value: str | None) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": f"id-{name}",
        "title": name,
        "vault": {"id": "v"},
        "category": "API_CREDENTIAL",
    }
    if value is not None:
        notes = {"id": "notesPlain", "type": "STRING", "purpose": "NOTES", "label": "notes", "value": "n"}
        field = {"id": "credential", "type": "CONCEALED", "label": "credential", "value": value}
        item["fields"] = [notes, field] if value.startswith("old") else [field]
    return item
