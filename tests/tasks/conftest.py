"""What several tests of tasks start from."""

import pytest

from tests.tools import probes


@pytest.fixture(scope="module")
def probe_workdir(tmp_path_factory):
    """Holds a checkpoint of step 3; its weights are random, unlike `untrained`'s."""
    folder = tmp_path_factory.mktemp("run")
    probes.write_workdir(folder)
    return folder
