"""A front before an object store, so that its requests stand in the ledger and can go wrong like all others."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

from pilot.sandbox.http_server import Answer, Request

_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade", "proxy-connection")
_OUR_OWN = ("server", "date", "content-type", "content-length")
_TIMEOUT_S = 60.0


class StoreFront:
    """Passes requests on to the store on `port` unchanged, the Host header included, since S3 signatures cover it."""

    def __init__(self, port: int, ca: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca))

    def forward(self, request: Request) -> Answer:
        target = f"{request.path}?{request.query}" if request.query else request.path
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
        store = http.client.HTTPSConnection("localhost", self._port, timeout=_TIMEOUT_S, context=self._context)
        try:
            store.request(request.method, target, request.body or None, headers)
            return _answer(request, store.getresponse())
        except (OSError, http.client.HTTPException) as error:
            return Answer.text(502, f"the store does not answer: {type(error).__name__}")
        finally:
            store.close()


def _answer(request: Request, response: http.client.HTTPResponse) -> Answer:
    body = response.read()
    kept = {n: v for n, v in response.getheaders() if n.lower() not in (*_HOP_BY_HOP, *_OUR_OWN)}
    length = response.getheader("Content-Length")
    if request.method == "HEAD" and length is not None:
        kept["Content-Length"] = length
    return Answer(response.status, body, response.getheader("Content-Type") or "application/octet-stream", kept)
