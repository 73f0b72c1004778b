"""The jobs of the command line, each with `run(config, workdir)`."""

from ddae_jax.tasks import prepare, pretrain, sample

TASKS = {"prepare": prepare, "pretrain": pretrain, "sample": sample}
"""Name on the command line -> module."""
