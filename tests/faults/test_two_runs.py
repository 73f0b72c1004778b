"""Two command lines in one workdir: the second is refused, whatever its task."""

import signal

import pytest

from tests.tools import runs as run_tools


@pytest.mark.slow
def test_the_second_run_is_refused_and_the_first_unharmed(tmp_path):
    first = run_tools.start(*run_tools.pretraining(tmp_path, 100_000))
    try:
        for line in first.stderr:
            if "pretrain 1/" in line:
                break
        for task in ("pretrain", "report"):
            words = (f"--workdir={tmp_path}", f"--task={task}")
            told = run_tools.run(*run_tools.TINY, *words, status=2)
            (line,) = (line for line in told.splitlines() if "error" in line)
            assert f"another run works in {tmp_path}" in line
        first.send_signal(signal.SIGTERM)
        _, rest = first.communicate(timeout=100)
    finally:
        first.kill()
    assert first.returncode == 0 and rest.splitlines()[-1].endswith(", saved")
