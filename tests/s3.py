"""S3 on this machine: moto behind a door that can be slow, fail, or be shut, and that counts who passes."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a-name-of-keys", "AWS_SECRET_ACCESS_KEY": "a-secret-of-keys"}


class Door:
    """What stands before the service, as a WSGI application.

    `slow` gives seconds by method and path. Of requests the share `failing` ends with 503, and while `shut` is set all
    do; the share `unheard` is done and ends with 503 all the same. Without `conditions` none is heeded. `answers` tells
    by method and path with what a request is turned away, such as "403 Forbidden".
    """

    def __init__(self, service: Callable[..., Iterable[bytes]]) -> None:
        self.service = service
        self.open_again()

    def open_again(self) -> None:
        self.slow: Callable[[str, str], float] = lambda method, path: 0.0
        self.failing, self.unheard, self.shut, self.random = 0.0, 0.0, False, random.Random(0)
        self.conditions = True
        self.answers: Callable[[str, str], str] = lambda method, path: ""
        self.passed: Counter[str] = Counter()
        self.refused = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        time.sleep(self.slow(method, path))
        if self.shut or self.random.random() < self.failing:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return self.refuse(start_response)
        if answer := self.answers(method, path):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(answer, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{answer}</Code></Error>".encode()]
        if not self.conditions:
            for header in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
                environ.pop(header, None)
        self.passed[method] += 1
        if self.random.random() < self.unheard:
            list(self.service(environ, lambda *_: None))
            return self.refuse(start_response)
        return self.service(environ, start_response)

    def refuse(self, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.refused += 1
        start_response("503 Slow Down", [("Content-Length", "0")])
        return [b""]


class S3:
    """A service with its door; `bucket()` is the URI of a new bucket."""

    def __init__(self, door: Door, port: int) -> None:
        self.door, self.endpoint = door, f"http://127.0.0.1:{port}"

    def bucket(self, prefix: str = "prefix") -> str:
        import boto3

        name = f"bucket-{secrets.token_hex(4)}"
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "thing", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=self.endpoint, **keys).create_bucket(Bucket=name)
        return f"s3://{name}/{prefix}?endpoint={self.endpoint}&region=us-east-1"


@contextlib.contextmanager
def served() -> Iterator[S3]:
    """A service for the length of the block, in threads of this process; others reach it by its URIs."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        try:
            yield S3(door, server.server_port)
        finally:
            server.shutdown()
            thread.join()
