"""An S3-compatible server on loopback, as slow as a test wants it.

    python -m tests.tools.object_store FOLDER

writes its port to FOLDER/port, and the key of each object that was put, or that was
begun to be put ("begun KEY"), to FOLDER/log. Objects whose key contains the text in
FOLDER/slow take half a second each.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

BUCKET = "bucket"


class Server:
    """A running server.

    Attributes:
      environment: of processes that are to find it.
      files: its file system, fsspec's.
    """

    def __init__(self, folder: pathlib.Path, process: subprocess.Popen):
        self._folder, self.process = folder, process
        wait_for(lambda: (folder / "port").exists(), process)
        port = (folder / "port").read_text()
        self.environment = {
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }

    def slow_down(self, text: str) -> None:
        """Objects with this in their key take half a second; "" for none."""
        (self._folder / "slow").write_text(text)

    def log(self) -> list[str]:
        """Keys that were put, in their order, and before each "begun KEY"."""
        log = self._folder / "log"
        return log.read_text().splitlines() if log.exists() else []


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    """Until `condition()`; fails where `process` ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


@contextlib.contextmanager
def serving(folder: pathlib.Path):
    """A server with an empty bucket, and the environment that finds it."""
    pytest.importorskip("moto", reason="needs moto[server]: make test-all")
    pytest.importorskip("flask", reason="needs moto[server]: make test-all")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs", reason="needs the extra s3: make test-all")
    words = [sys.executable, "-m", "tests.tools.object_store", str(folder)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    before = dict(os.environ)
    try:
        server = Server(folder, process)
        os.environ |= server.environment
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        server.files = fsspec.filesystem("s3", **options)
        server.files.mkdir(BUCKET)
        yield server
    finally:
        os.environ.clear()
        os.environ |= before
        process.kill()
        process.wait()


def _serve(folder: pathlib.Path) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def tell(line):
        with lock, (folder / "log").open("a") as log:
            log.write(f"{line}\n")

    def app(environ, start_response):
        put = environ["REQUEST_METHOD"] == "PUT"
        key = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        if put:
            tell(f"begun {key}")
            slow = folder / "slow"
            text = slow.read_text() if slow.exists() else ""
            if text and text in key:
                time.sleep(0.5)
        answer = moto(environ, start_response)
        if put:
            tell(key)
        return answer

    server = make_server("127.0.0.1", 0, app, threaded=True)
    part = folder / "port.part"
    part.write_text(str(server.port))
    part.rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    _serve(pathlib.Path(sys.argv[1]))
