"""A GPU's speed in bfloat16, ours against PyTorch with autocast and torch.compile.

    python -m benchmarks.gpu --out=runs/gpu --seconds=300

Programs compile for a minute or more, so that each part is a process of its own and all
compile at once; then they measure, one after the other, with nothing else on the GPU.
Each figure is written to OUT/gpu.json as soon as it is there, so that a run that is cut
short keeps the rest. `--tiny` tries the script on a CPU.
"""

import fcntl
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback

from absl import app, flags

PARTS = ("rates", "unet", "dit", "sample", "extract", "songunet")
# Who compiles after whom: at most three at once, because XLA and cuDNN choose their
# kernels by timing them.
AFTER = {"extract": "sample", "songunet": "extract"}

OUT = flags.DEFINE_string("out", "runs/gpu", "Folder of gpu.json and the logs.")
NAMES = flags.DEFINE_list("parts", list(PARTS), f"Of {', '.join(PARTS)}.")
SECONDS = flags.DEFINE_integer("seconds", 300, "After which parts are stopped.")
PATIENCE = flags.DEFINE_integer(
    "patience", 170, "Seconds after which measuring begins, whoever compiles still."
)
TINY = flags.DEFINE_bool("tiny", False, "Sizes that a CPU runs in seconds.")
PART = flags.DEFINE_string("part", "", "Measure this one here: used by the script.")
STARTED = flags.DEFINE_float("started", 0, "When the script began: used by it.")


class Markers:
    """Files by which the parts know how far the others are."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def put(self, part: str, what: str) -> None:
        """Says that a part has come to `what`: compiled or ended."""
        (self.folder / f"{part}.{what}").touch()

    def there(self, part: str, what: str) -> bool:
        """Whether it has, or will not any more."""
        found = (self.folder / f"{part}.{word}" for word in (what, "ended"))
        return any(path.exists() for path in found)

    def wait(self, parts, what: str, until: float) -> bool:
        """Waits for all of them; False after the time `until`."""
        while not all(self.there(part, what) for part in parts):
            if time.time() > until:
                return False
            time.sleep(0.2)
        return True


def measure_rates(tiny: bool) -> dict:
    """FLOP/s of a product of two random matrices, and bytes/s of a copy."""
    import jax
    import jax.numpy as jnp
    import torch

    side, length = (256, 1 << 16) if tiny else (8192, 1 << 29)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    one, two = jax.random.normal(jax.random.key(0), (2, side, side), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    their_one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    their_two = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    source = jnp.ones(length)
    copy = jax.jit(lambda x: x + 1)
    their_source = torch.ones(length, device=device)
    their_copy = torch.empty_like(their_source)

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    def seconds(call, done, calls=10):
        done(call())
        found = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(calls):
                result = call()
            done(result)
            found.append((time.perf_counter() - start) / calls)
        return statistics.median(found)

    def ignore(_):
        finish()

    flops, moved = 2 * side**3, 2 * 4 * length
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "torch": torch.__version__,
        "jax_flops": flops / seconds(lambda: product(one, two), jax.block_until_ready),
        "torch_flops": flops / seconds(lambda: their_one @ their_two, ignore),
        "jax_bytes": moved / seconds(lambda: copy(source), jax.block_until_ready),
        "torch_bytes": moved / seconds(lambda: their_copy.copy_(their_source), ignore),
    }


def measure_part(name: str, markers: Markers) -> dict:
    """Compiles both sides of a part, waits for its turn and measures them."""
    import torch

    from benchmarks import gpu_parts, timing

    part = gpu_parts.parts(TINY.value)[name]
    cuda = gpu_parts.device() == "cuda"
    torch.set_float32_matmul_precision("high")
    built = gpu_parts.Built()

    def compile_ours():
        if name in AFTER and AFTER[name] in NAMES.value:
            markers.wait([AFTER[name]], "ours", time.time() + 600)
        try:
            part.ours(built)
        except Exception as error:
            traceback.print_exc()
            built.errors["ours"] = f"{type(error).__name__}: {error}"[:300]
        markers.put(name, "ours")
        print(f"{name}: ours compiled {_after():.0f} s", flush=True)

    thread = threading.Thread(target=compile_ours)
    thread.start()
    theirs = {}
    for side, build in part.theirs.items():
        try:
            theirs[side] = build()
            theirs[side]()
        except Exception as error:
            traceback.print_exc()
            theirs.pop(side, None)
            built.errors[side] = f"{type(error).__name__}: {error}"[:300]
    print(f"{name}: PyTorch compiled {_after():.0f} s", flush=True)
    if cuda:
        torch.cuda.empty_cache()
    thread.join()
    markers.put(name, "compiled")

    quiet = markers.wait(NAMES.value, "compiled", STARTED.value + PATIENCE.value)
    before = [other for other in PARTS[: PARTS.index(name)] if other in NAMES.value]
    with _turn(markers, before):
        if cuda:
            torch.backends.cudnn.benchmark = True
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        seconds = timing.alternate(built.sides | theirs, part.rounds)
        spent = time.perf_counter() - start
    result = {
        "images": part.images,
        "quiet": quiet,
        "measured_for_seconds": round(spent, 1),
        "sides": {
            side: {
                "seconds": statistics.median(values),
                "images_per_second": part.images / statistics.median(values),
                "all_seconds": values,
                **built.facts.get(side, {}),
                **_loss(built.metrics.get(side)),
            }
            for side, values in seconds.items()
        },
        "errors": built.errors,
    }
    if cuda:
        peak = torch.cuda.max_memory_allocated()
        for side in theirs:
            result["sides"][side]["memory_bytes"] = peak
    return result


def _loss(metrics: dict | None) -> dict:
    return {"loss": float(metrics["loss"].compute())} if metrics else {}


class _turn:
    """The GPU for oneself: a lock on a file, after the parts before have it no more."""

    def __init__(self, markers: Markers, before: list[str]):
        self.markers, self.before = markers, before

    def __enter__(self):
        # Parts before that are not compiled by now come later.
        waiting = [b for b in self.before if self.markers.there(b, "compiled")]
        self.markers.wait(waiting, "ended", time.time() + 600)
        self.file = open(self.markers.folder / "gpu.lock", "w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def _after() -> float:
    return time.time() - STARTED.value


def one_part(folder: pathlib.Path) -> None:
    """The process of one part: its figures as OUT/PART.json."""
    name, markers = PART.value, Markers(folder / "markers")
    if name == "rates":
        markers.put(name, "compiled")
        quiet = markers.wait(NAMES.value, "compiled", STARTED.value + PATIENCE.value)
        with _turn(markers, []):
            result = measure_rates(TINY.value) | {"quiet": quiet}
    else:
        result = measure_part(name, markers)
    (folder / "parts" / f"{name}.json").write_text(json.dumps(result))


def table(results: dict[str, dict]) -> list[str]:
    """One line per side: what a reader wants to know."""
    rates = results.get("rates", {})
    lines = ["tiny: the sides have other sizes, no figure counts"] if TINY.value else []
    if rates:
        lines.append(
            f"{rates['device']}, jax {rates['jax']}, torch {rates['torch']}: bf16 "
            f"product {rates['jax_flops'] / 1e12:.0f} (jax) "
            f"{rates['torch_flops'] / 1e12:.0f} (torch) TFLOP/s, copy "
            f"{rates['jax_bytes'] / 1e12:.2f} {rates['torch_bytes'] / 1e12:.2f} TB/s"
        )
    for name, result in results.items():
        if name == "rates":
            continue
        ours = result["sides"].get("ours")
        for side, row in result["sides"].items():
            line = f"{name:9s} {side:24s} {row['images_per_second']:9.1f} images/s"
            line += f" {row['seconds'] * 1e3:9.1f} ms"
            if "memory_bytes" in row:
                line += f" {row['memory_bytes'] / 2**30:6.2f} GiB"
            if ours and ours.get("flops") and rates:
                rate = max(rates["jax_flops"], rates["torch_flops"])
                line += f"  share {ours['flops'] / row['seconds'] / rate:.3f}"
            if side != "ours" and ours:
                line += f"  ours is {row['seconds'] / ours['seconds']:.2f} x this"
            lines.append(line + ("" if result["quiet"] else "  (not alone)"))
        lines += [f"{name:9s} {side}: {why}" for side, why in result["errors"].items()]
    return lines


def collect(folder: pathlib.Path) -> dict[str, dict]:
    """The results there are, written together to gpu.json."""
    results = {}
    for name in PARTS:
        path = folder / "parts" / f"{name}.json"
        try:
            results[name] = json.loads(path.read_text())
        except (OSError, ValueError):  # not there yet, or half written
            continue
    (folder / "gpu.json").write_text(json.dumps(results, indent=1))
    return results


def start(name: str, folder: pathlib.Path) -> subprocess.Popen:
    """The process of a part."""
    words = [f"--{f.name}={f.value}" for f in (OUT, SECONDS, PATIENCE, TINY)]
    words += [f"--parts={','.join(NAMES.value)}", f"--part={name}"]
    words += [f"--started={time.time()}"]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    with open(folder / "parts" / f"{name}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", *words],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def main(argv):
    """Runs all parts, or with --part one."""
    del argv
    folder = pathlib.Path(OUT.value).absolute()
    if PART.value:
        return one_part(folder)
    for sub in ("parts", "markers"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        for old in (folder / sub).iterdir():
            old.unlink()
    markers, began = Markers(folder / "markers"), time.time()
    running = {name: start(name, folder) for name in NAMES.value}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while running and time.time() - began < SECONDS.value:
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                markers.put(name, "ended")
                known = collect(folder)
                print(
                    f"{name} ended with {process.returncode} after "
                    f"{time.time() - began:.0f} s",
                    flush=True,
                )
                if name in known:
                    shown = {key: known[key] for key in ("rates", name) if key in known}
                    print("\n".join(table(shown)), flush=True)
            time.sleep(0.2)
    finally:
        for name, process in running.items():
            print(f"{name}: stopped", flush=True)
            os.killpg(process.pid, signal.SIGKILL)
        print("\n" + "\n".join(table(collect(folder))), flush=True)


if __name__ == "__main__":
    app.run(main)
