"""The jobs of the command line, each with `run(config, workdir)`."""

from ddae_jax.tasks import (
    contrastive,
    export,
    import_weights,
    prepare,
    pretrain,
    probe,
    report,
    sample,
)

TASKS = {
    "prepare": prepare,
    "import": import_weights,
    "pretrain": pretrain,
    "sample": sample,
    "probe": probe,
    "contrastive": contrastive,
    "report": report,
    "export": export,
}
"""Name on the command line -> module."""
