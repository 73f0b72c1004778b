"""The jobs of the command line, each with `run(config, workdir)`."""

from ddae_jax.tasks import prepare, pretrain, probe, report, sample

TASKS = {
    "prepare": prepare,
    "pretrain": pretrain,
    "sample": sample,
    "probe": probe,
    "report": report,
}
"""Name on the command line -> module."""
