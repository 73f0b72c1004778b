"""What can be trained sharded is read sharded: by probe, fid, predict and load."""

import shutil

import numpy as np
import pytest

from tests.tools import sharded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sharded.write_workdir(folder)
    return folder


def compare(workdir, tmp_path, names, absolute):
    """The numbers of one device and of two, which share the parameters."""
    two = sharded.measure_on(2, shutil.copytree(workdir, tmp_path / "two"), names)
    one = sharded.measure(workdir, names, fsdp=1)
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("/sharded"):
            assert two[name] and not one[name], name
            continue
        np.testing.assert_allclose(
            two[name], one[name], rtol=1e-3, atol=absolute[name], err_msg=name
        )


def test_a_fine_tuned_network_and_a_loaded_one_stay_sharded(workdir, tmp_path):
    absolute = {
        "predict/features": 1e-4,
        "predict/probabilities": 1e-3,
        "load/features": 1e-4,
        "load/denoised": 1e-4,
        "load/samples": 1,  # a value between two levels may be rounded either way
    }
    compare(workdir, tmp_path, ("predict", "load"), absolute)


def test_a_probe_and_fid_of_sharded_parameters(workdir, tmp_path):
    # An image on the edge between two classes may turn.
    absolute = {"probe/accuracies": 0.02, "fid/fid": 1e-3}
    compare(workdir, tmp_path, ("probe", "fid"), absolute)
