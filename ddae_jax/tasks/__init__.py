"""The jobs of the command line, each with `run(config, workdir)`."""

from ddae_jax.tasks import (
    contrastive,
    dense,
    export,
    fid,
    import_weights,
    predict,
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
    "dense": dense,
    "predict": predict,
    "fid": fid,
    "report": report,
    "export": export,
}
"""Name on the command line -> module."""
