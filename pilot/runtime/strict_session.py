"""A requests session that goes nowhere by itself and reads no answer without an end. Imported with requests, at first use."""

from __future__ import annotations

from typing import Any

import requests

MAX_WHOLE_ANSWER_BYTES = 16 << 20


class EndlessAnswer(requests.exceptions.RequestException):
    """The peer sent more than an answer may have."""


class StrictSession(requests.Session):
    """A redirect is an answer like any other: whoever wants to follow one looks at the host first (http.call). An answer that
    is not streamed is read up to ``MAX_WHOLE_ANSWER_BYTES``.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        return None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        streamed = kwargs.get("stream", False)
        response = super().send(request, **{**kwargs, "stream": True})
        if not streamed:
            _read_whole(response)
        return response


def _read_whole(response: requests.Response) -> None:
    pieces, size = [], 0
    for piece in response.iter_content(64 << 10):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_WHOLE_ANSWER_BYTES:
            response.close()
            raise EndlessAnswer(f"the answer has more than {MAX_WHOLE_ANSWER_BYTES} bytes")
    response._content = b"".join(pieces)
