"""The jobs of the command line, each with `run(config, workdir)`."""

from ddae_jax.tasks import (
    contrastive,
    dense,
    export,
    fid,
    finetune,
    import_weights,
    noisy_classifier,
    predict,
    prepare,
    pretrain,
    probe,
    report,
    sample,
    track,
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
    "finetune": finetune,
    "noisy_classifier": noisy_classifier,
    "track": track,
    "report": report,
    "export": export,
}
"""Name on the command line -> module."""
