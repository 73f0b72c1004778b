"""A server on loopback that a signal ends at once."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from absl import logging
from starlette.types import ASGIApp

from ddae_jax.errors import UserError

HOST = "127.0.0.1"
_SECONDS = 2  # in which it ends


def listen(port: int) -> socket.socket:
    """A socket on loopback.

    Args:
      port: 0 for one that is free.

    Raises:
      UserError: the port is taken, or not for this user.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = (error.strerror or "").lower()
        raise UserError(f"config.explore.port: {port}: {reason}") from error
    return listening


@contextlib.contextmanager
def started(
    application: ASGIApp, listening: socket.socket
) -> Iterator[threading.Thread]:
    """A thread that serves until the block is left, or a few seconds longer."""
    server = uvicorn.Server(
        uvicorn.Config(
            application, log_config=None, log_level="warning", lifespan="off"
        )
    )
    words = {"sockets": [listening]}
    thread = threading.Thread(target=server.run, kwargs=words, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = server.force_exit = True
        thread.join(_SECONDS)


def serve(application: ASGIApp, listening: socket.socket) -> None:
    """Says the address and serves until a signal comes.

    In a thread of its own: this one waits for signals, which are answered even while
    the server computes.

    Raises:
      KeyboardInterrupt: the signal.
    """
    with started(application, listening) as thread:
        port = listening.getsockname()[1]
        logging.info("explore: http://%s:%d/ (Ctrl-C ends it)", HOST, port)
        thread.join()
