"""Runs the losses of PyTorch, Keras, Optax and Liger Kernel on a few problems, and writes library_losses.json.

    python tests/data/losses/make_library_losses.py torch     # needs torch
    python tests/data/losses/make_library_losses.py jax       # needs jax, keras and optax
    python tests/data/losses/make_library_losses.py liger     # needs torch, triton and liger-kernel; runs on a CPU

Each run replaces what the file holds of its own libraries. Every number that goes in is exact in float32.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("library_losses.json")
_DRAWN = random.Random(6)
LOGITS = [[round(_DRAWN.uniform(-2, 2) * 64) / 64 for _ in range(4)] for _ in range(5)]
WEIGHT, UPSTREAM = [0.5, 2.0, 0.25, 1.5], [0.5, -2.0, 0.0, 1.0, 3.0]
SOFT: list[list[float]] = [
    [0.5, 0.25, 0.125, 0.125],
    [0, 0, 1, 0],
    [0.25, 0.25, 0.25, 0.25],
    [1, 0, 0, 0],
    [0, 0.5, 0.5, 0],
]
PROBLEMS: dict[str, dict[str, Any]] = {
    "plain": {"logits": LOGITS, "labels": [0, 3, 1, 1, 2]},
    "ignored": {"logits": LOGITS, "labels": [0, -100, 1, 1, -100]},
    "all-ignored": {"logits": LOGITS, "labels": [-100] * 5},
    "weighted": {"logits": LOGITS, "labels": [0, 3, 1, 1, 2], "weight": WEIGHT},
    "weighted-ignored": {"logits": LOGITS, "labels": [0, -100, 1, 1, 2], "weight": WEIGHT},
    "weight-0-at-every-label": {"logits": LOGITS, "labels": [0] * 5, "weight": [0.0, *WEIGHT[1:]]},
    "weight-0-at-a-label": {"logits": LOGITS, "labels": [0, 3, 1, 1, 2], "weight": [0.0, *WEIGHT[1:]]},
    "soft": {"logits": LOGITS, "labels": SOFT},
    "soft-off-simplex": {"logits": LOGITS, "labels": [[2 * y for y in row] for row in SOFT]},
    "soft-weighted": {"logits": LOGITS, "labels": SOFT, "weight": WEIGHT},
    "one-class": {"logits": [[1.5], [0.0]], "labels": [0, 0]},
}


def entry(library: str, package: str, problem: str, loss: list[str], value: Any, gradient: Any) -> dict[str, Any]:
    """A run: the options beside like=LIBRARY and the problem's weights, the summed output, its gradient."""
    return {
        "library": library,
        "version": importlib.metadata.version(package),
        "problem": problem,
        "loss": loss,
        "value": repr(float(value)),
        "gradient": [[repr(float(x)) for x in row] for row in gradient],
    }


def of_torch() -> Iterator[dict[str, Any]]:
    """torch.nn.functional.cross_entropy, in float64."""
    import torch

    for name, problem in PROBLEMS.items():
        soft = isinstance(problem["labels"][0], list)
        labels = torch.tensor(problem["labels"], dtype=torch.float64 if soft else torch.int64)
        weight = torch.tensor(problem["weight"], dtype=torch.float64) if "weight" in problem else None

        def run(options: list[str], rows: Callable[[Any], Any], name: str = name) -> dict[str, Any]:
            x: Any = torch.tensor(PROBLEMS[name]["logits"], dtype=torch.float64, requires_grad=True)
            value = rows(x).sum()
            value.backward()
            return entry("torch", "torch", name, options, value.item(), x.grad.tolist())

        for reduction, smoothing in itertools.product(("none", "sum", "mean"), (0.0, 0.1, 1.0)):
            keywords: dict[str, Any] = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
            options = [f"reduction={reduction}", *([f"label_smoothing={smoothing}"] if smoothing else [])]
            yield run(options, functools.partial(torch.nn.functional.cross_entropy, target=labels, **keywords))
        if soft:
            continue
        for cap, temperature, factor, upstream in (
            (1.5, 1.0, 0.0, None),
            (None, 0.75, 0.0, None),
            (1.5, 0.75, 0.125, None),
            (None, 1.0, 0.125, UPSTREAM),
        ):
            if upstream and len(problem["labels"]) != len(upstream):
                continue

            def rows(x: Any, c: Any = cap, t: Any = temperature, lam: Any = factor, up: Any = upstream) -> Any:
                z = (c * torch.tanh(x / c) if c else x) / t
                found = torch.nn.functional.cross_entropy(z, labels, weight=weight, reduction="none")  # noqa: B023
                found = found + lam * torch.logsumexp(z, 1) ** 2 * (labels != -100)  # noqa: B023
                return found * torch.tensor(up or [1.0], dtype=torch.float64)

            options = ["reduction=none"]
            options += [f"softcap={cap}"] * (cap is not None) + [f"temperature={temperature}"] * (temperature != 1)
            options += [f"z_loss={factor}"] * bool(factor)
            options += ["upstream=" + ",".join(map(str, upstream or []))] * bool(upstream)
            yield run(options, rows)


def of_jax() -> Iterator[dict[str, Any]]:
    """keras.losses from logits, on JAX in float64, and optax.losses."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras
    import numpy as np
    import optax

    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    for name, problem in PROBLEMS.items():
        if "weight" in problem:
            continue
        logits, labels = np.array(problem["logits"]), np.array(problem["labels"])
        soft, ignored = labels.ndim == 2, bool((labels == -100).any())
        hot = labels.astype(np.float64) if soft else np.eye(logits.shape[1])[labels.clip(0)]

        def run(library: str, options: list[str], f: Any, name: str = name, x: Any = logits) -> dict[str, Any]:
            return entry(library, library, name, options, *jax.value_and_grad(f)(jax.numpy.asarray(x)))

        for reduction in ("none", "sum", "mean"):
            options, own = [f"reduction={reduction}"], "sum_over_batch_size" if reduction == "mean" else reduction
            if soft:
                for smoothing in (0.0, 0.1):
                    loss = keras.losses.CategoricalCrossentropy(
                        from_logits=True, label_smoothing=smoothing, reduction=own
                    )
                    more = [f"label_smoothing={smoothing}"] * bool(smoothing)
                    yield run("keras", options + more, lambda x, f=loss, y=hot: f(y, x).sum())
                continue
            options += ["ignore_index=-100"] * ignored
            loss = keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=-100 if ignored else None, reduction=own
            )
            yield run("keras", options, lambda x, f=loss, y=labels: f(y, x).sum())
            if len(labels) == len(UPSTREAM):
                samples = np.abs(UPSTREAM)
                more = ["upstream=" + ",".join(map(str, samples.tolist()))]
                yield run("keras", options + more, lambda x, f=loss, y=labels, w=samples: f(y, x, w).sum())
        if ignored:
            continue
        yield run("optax", [], lambda x, y=hot: optax.softmax_cross_entropy(x, y).sum())
        smoothed = optax.smooth_labels(jax.numpy.asarray(hot), 0.1)
        yield run("optax", ["label_smoothing=0.1"], lambda x, y=smoothed: optax.softmax_cross_entropy(x, y).sum())
        if not soft:
            yield run("optax", [], lambda x, y=labels: optax.softmax_cross_entropy_with_integer_labels(x, y).sum())
        elif logits.shape[1] == 4:
            mask = np.tile([True, True, False, True], (len(labels), 1))
            masked = ["mask=1,1,0,1"]
            yield run("optax", masked, lambda x, y=hot, m=mask: optax.softmax_cross_entropy(x, y, where=m).sum())


def of_liger() -> Iterator[dict[str, Any]]:
    """Liger Kernel's Triton kernel, in float32, in Triton's interpreter, which lacks the tanh of a softcap."""
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np
    import torch
    import triton.language as tl
    import triton.runtime.interpreter as interpreter
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    convert = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        # a compiled kernel gets tensors where the interpreter hands on Python floats
        if type(argument) is not float:
            return convert(argument)
        return tl.tensor(interpreter.TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)

    interpreter._implicit_cvt = converted
    for name, problem in PROBLEMS.items():
        if isinstance(problem["labels"][0], list):
            continue
        labels = torch.tensor(problem["labels"])
        for reduction, smoothing, factor in itertools.product(("none", "sum", "mean"), (0.0, 0.1), (0.0, 0.125)):
            x: Any = torch.tensor(problem["logits"], dtype=torch.float32, requires_grad=True)
            weight = torch.tensor(problem["weight"]) if "weight" in problem else None
            arguments = (weight, -100, factor, smoothing, reduction, None, False)
            value = LigerCrossEntropyFunction.apply(x * 1.0, labels, *arguments)[0]
            value.backward(torch.ones_like(value))
            options = [f"reduction={reduction}", *[f"label_smoothing={smoothing}"] * bool(smoothing)]
            options += [f"z_loss={factor}"] * bool(factor)
            yield entry("liger", "liger-kernel", name, options, value.sum().item(), x.grad.tolist())


def main() -> None:
    """Replaces the entries of the libraries that are run."""
    found = list({"torch": of_torch, "jax": of_jax, "liger": of_liger}[sys.argv[1]]())
    old = json.loads(TARGET.read_text())["runs"] if TARGET.exists() else []
    renewed = {run["library"] for run in found}
    runs = sorted([run for run in old if run["library"] not in renewed] + found, key=lambda run: str(run["library"]))
    lines = ",\n".join(json.dumps(run) for run in runs)
    TARGET.write_text(f'{{"problems": {json.dumps(PROBLEMS)},\n"runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
