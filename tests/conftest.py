"""Settings of all tests and of the processes that they start."""

import gc
import os
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# In the environment, because jax reads it at import and subprocesses inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the tests' time is compilation; results differ by rounding alone.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tracing is the rest: without its bookkeeping for errors, and with fewer collections of
# the many objects that it leaves, it takes a fifth less.
os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
gc.set_threshold(100_000, 50, 50)

from jaxtyping import install_import_hook  # noqa: E402 (it imports jax)

# Shapes and types of the arrays' public functions are checked while the tests run.
install_import_hook(["ddae_jax.diffusion", "ddae_jax.metrics"], "beartype.beartype")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """What pre-training by the command line leaves: checkpoints 2 and 4. To copy."""
    from tests.tools import runs as run_tools

    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    run_tools.pretrain(workdir, 4, "--config.train.keep_every=2")
    return workdir


@pytest.fixture(scope="module")
def pretrained_copy(tmp_path_factory, pretrained):
    """A workdir of this file's own, pre-trained as `pretrained` is."""
    return shutil.copytree(pretrained, tmp_path_factory.mktemp("copy") / "run")


_LONGEST = ("test_runs.py", "test_configs.py", "test_finetune.py", "test_sample.py")


def pytest_collection_modifyitems(items):
    """What compares with torch is run by make test-all, which installs it.

    The longest files first: no worker is left with one of them at the end.
    """
    for item in items:
        if "torch" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.name not in _LONGEST)
