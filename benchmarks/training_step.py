"""One training step on a batch in memory, against PyTorch's and the machine's limit."""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import measure, network, workload
from benchmarks.table import AtLeast, Options, Report
from stfnet_tf import presets

# As in configs/cia.flags.
BATCH, PATCH = 32, 64
RATE = 1e-3


def run(options: Options, clock: Callable[[], float] = time.perf_counter) -> Report:
    """Training steps of the `paper` preset in both frameworks, on the same threads."""
    report = Report()
    config = presets.build("paper", bands=workload.BANDS)
    batch = random_batch(BATCH, PATCH)
    flops = network.step_flops(config, BATCH * PATCH**2)
    product, product_flops = network.matrix_product()
    runs: dict[str, Callable[[], object]] = {"product": product, "step": step(config, batch)}
    try:
        runs |= _torch_steps(config, batch)
    except ImportError:
        report.note("Against PyTorch: torch is not installed (extra `bench`).")
    seconds = measure.alternate(runs, options.rounds, warm_up=2, clock=clock)
    report.add("stfnet-tf", "patches/s", measure.rates(BATCH, seconds["step"]))
    others = {k: v for k, v in seconds.items() if k.startswith("PyTorch")}
    for name, taken in others.items():
        report.add(name, "patches/s", measure.rates(BATCH, taken))
    if others:
        best = measure.fastest(others)
        report.add(
            f"speed against {best}",
            "×",
            measure.ratios(others[best], seconds["step"]),
            AtLeast(1.2),
        )
    rate = measure.rates(product_flops, seconds["product"])
    report.add("float32 matrix product", "Gflop/s", tuple(v / 1e9 for v in rate))
    report.add(
        "share of the matrix product's rate",
        "",
        measure.ratios(measure.rates(flops, seconds["step"]), rate),
        AtLeast(0.55),
    )
    return report


def random_batch(size: int, patch: int) -> dict[str, np.ndarray]:
    """Reflectance and masks as the input pipeline gives them; 3 % of the pixels are invalid."""
    rng = np.random.default_rng(0)
    shape = (size, patch, patch, len(workload.BANDS))
    batch = {}
    for name in ("f1", "f2", "f3", "c1", "c2", "c3"):
        valid = (rng.random((*shape[:3], 1)) > 0.03).astype(np.float32)
        batch[name] = rng.uniform(0, 0.4, shape).astype(np.float32) * valid
        batch[f"valid_{name}"] = valid
    return batch


def step(config: presets.ModelConfig, batch: dict[str, np.ndarray]) -> Callable[[], object]:
    """A step as `Model.fit` takes it, on one batch that stays in memory."""
    import tensorflow as tf

    from stfnet_tf import model, optimizers

    network_ = model.StfNet(config)
    network_.compile(optimizers.build("Adam", RATE))
    train = network_.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: train(batches)["loss"].numpy()


def _torch_steps(
    config: presets.ModelConfig, batch: dict[str, np.ndarray]
) -> dict[str, Callable[[], object]]:
    """The same step in PyTorch, in both of its memory layouts."""
    import torch

    return {
        f"PyTorch, {name}": _torch_step(config, batch, layout)
        for name, layout in (
            ("channels first", torch.contiguous_format),
            ("channels last", torch.channels_last),
        )
    }


def _torch_step(
    config: presets.ModelConfig, batch: dict[str, np.ndarray], layout: Any
) -> Callable[[], object]:
    """Both streams, masked reconstruction and consistency, Adam; no scores along the way."""
    import tensorflow as tf
    import torch
    from torch import nn

    threads = tf.config.threading.get_intra_op_parallelism_threads()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    bands = len(config.bands)

    def stream() -> nn.Sequential:
        channels = [2 * bands, *config.filters, bands]
        layers: list[nn.Module] = []
        for size, before, after in zip(
            config.kernel_sizes, channels[:-1], channels[1:], strict=True
        ):
            layers += [nn.Conv2d(before, after, size, padding=size // 2), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers[:-1]).to(memory_format=layout)

    streams = stream(), stream()
    parameters = [p for each in streams for p in each.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE, eps=1e-7)
    x = {
        k: torch.from_numpy(np.ascontiguousarray(v.transpose(0, 3, 1, 2))).to(memory_format=layout)
        for k, v in batch.items()
    }

    def error(predicted: Any, true: Any, weight: Any) -> Any:
        return (weight * (predicted - true) ** 2).sum() / (weight.sum() * bands).clamp(min=1.0)

    def train() -> float:
        optimizer.zero_grad(set_to_none=True)
        sides = []
        for each, fine, (i, j) in ((streams[0], "f1", "12"), (streams[1], "f3", "23")):
            valid = x[f"valid_c{i}"] * x[f"valid_c{j}"]
            change = (x[f"c{j}"] - x[f"c{i}"]) * valid
            change = each(torch.cat([change, x[fine]], 1) * config.gain) / config.gain
            sides.append((change, valid * x[f"valid_{fine}"]))
        (f12, valid12), (f23, valid23) = sides
        loss = error(f12, x["f2"] - x["f1"], valid12 * x["valid_f2"])
        loss = loss + error(f23, x["f3"] - x["f2"], valid23 * x["valid_f2"])
        consistency = error(f12 + f23, x["f3"] - x["f1"], valid12 * valid23)
        loss = loss + config.temporal_consistency * consistency
        loss.backward()
        optimizer.step()
        return loss.item()

    return train
