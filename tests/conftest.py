"""Settings of all tests and of the processes that they start."""

import os
import pathlib

ROOT = pathlib.Path(__file__).parent.parent

# In the environment, because jax reads it at import and subprocesses inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the tests' time is compilation; results differ by rounding alone.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
