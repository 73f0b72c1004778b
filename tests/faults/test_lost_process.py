"""One of two processes is killed: the other ends with a line, within a minute."""

import signal
import socket
import subprocess
import time

import pytest

from ddae_jax.runtime import exits
from tests.tools import runs as run_tools


@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.campaign), 1])
def test_the_other_process_ends_with_a_line(tmp_path, victim):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = [tmp_path / f"{index}.log" for index in range(2)]
    processes = []
    for index, log in enumerate(logs):
        words = (
            *run_tools.pretraining(tmp_path / "run", 1_000_000),
            f"--coordinator=localhost:{port}",
            "--process_count=2",
            f"--process_index={index}",
        )
        with log.open("w") as file:
            started = subprocess.Popen(
                run_tools.command(*words),
                cwd=run_tools.ROOT,
                env=run_tools.environment(),
                stdout=file,
                stderr=file,
            )
        processes.append(started)
    try:
        deadline = time.monotonic() + 300
        while "pretrain 3/" not in logs[0].read_text():
            assert all(process.poll() is None for process in processes)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        processes[victim].kill()
        other = processes[1 - victim]
        assert other.wait(timeout=60) in (1, -signal.SIGABRT)
        # Said by a process of its own, which may come a moment later.
        while exits.PEER_IS_LOST not in logs[1 - victim].read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        last = logs[1 - victim].read_text().splitlines()[-1]
        assert last.startswith("error: ") and last.endswith(exits.PEER_IS_LOST)
    finally:
        for process in processes:
            process.kill()
            process.wait()
