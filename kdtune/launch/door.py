"""The door of a cluster: whether a Ray answers at an address, and whether it takes our token. Loads no Ray.

Ray by itself tries for half a minute, says "failed to connect" and no word of a token; and it reads RAY_AUTH_MODE once,
when it is imported, so that whoever joins a cluster with a token must know of it before.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

KNOCK_S = 5.0  # for a TCP connection, and for an answer after that
ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s/:\[\]]+)):(?P<port>[0-9]{1,5})")
AUTO = "auto"  # Ray's own word for a cluster that runs on this machine
CHECK = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # of a head's services one that changes nothing
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class CannotConnect(Exception):
    """There is no Ray at the address, or none to work with; the message says why."""


def enter(address: str) -> None:
    """Raises CannotConnect unless a Ray at HOST:PORT takes what we have. To be called before Ray is imported.

    Where it asks for a token and takes ours, RAY_AUTH_MODE is set for this process and all it starts.
    """
    knock(address)
    if address == AUTO:
        return
    told = answer(address, own_token()[0] if os.environ.get(MODE) == "token" else "")
    if told != "UNAUTHENTICATED":
        if told != "OK":
            raise CannotConnect(f"something listens there, but does not answer as a Ray ({told.lower()})")
        return
    token, origin = own_token()
    if not token:
        raise CannotConnect(
            f"it asks for a token, and there is none here ({origin}); copy the head's ~/.ray/auth_token there, or "
            f"name its file with {TOKEN_PATH}"
        )
    if answer(address, token) != "OK":
        raise CannotConnect(f"it asks for a token, and does not take that of {origin}: another cluster's?")
    if os.environ.get(MODE) != "token" and "ray" in sys.modules:
        raise CannotConnect(f"it asks for a token: set {MODE}=token before this process imports ray")
    os.environ[MODE] = "token"


def own_token() -> tuple[str, str]:
    """The token that Ray would take, "" for none, and where that is: Ray's own places in Ray's own order."""
    if token := os.environ.get(TOKEN, "").strip():
        return token, TOKEN
    path = Path(os.path.expanduser(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token"))
    try:
        return path.read_text().strip(), str(path)
    except OSError as error:
        return "", f"{path}: {error.strerror}"


def answer(address: str, token: str) -> str:
    """How a head answers one who has this token, "" for none: OK, UNAUTHENTICATED, or why there is no answer."""
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            # An empty request asks about no node; what is told is not read.
            channel.unary_unary(CHECK, request_serializer=bytes, response_deserializer=bytes)(
                b"", metadata=metadata, timeout=KNOCK_S
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def knock(address: str) -> None:
    """Raises CannotConnect unless something listens at HOST:PORT."""
    if address == AUTO:
        return
    match = ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        client = "; ray:// (Ray Client) would need this process on the cluster anyway" if "://" in address else ""
        raise CannotConnect(f"the address of a Ray cluster is HOST:PORT of its head, the port usually 6379{client}")
    try:
        socket.create_connection((match["six"] or match["host"], int(match["port"])), timeout=KNOCK_S).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no DNS can have
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotConnect(f"nothing answers there ({reason})") from error
