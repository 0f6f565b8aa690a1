"""Ports of this machine for tests whose processes talk to each other."""

import contextlib
import socket


def free(count: int) -> list[int]:
    """Ports that nobody listens at now; all of them differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
