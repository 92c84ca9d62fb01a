"""Whole training steps, and the forward features of ResNet-50.

FLOPs are 2 x the multiply-adds of convolutions, products, recurrent layers and attention (causal:
half of the pairs), as `minidl.tools.summary` counts them, and three times that for a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, WrongResult, agree, random
from benchmarks.library import Array, Minidl

Make = Callable[[Minidl], Any]


def sgd(lib: Minidl, params: Any) -> Any:
    """Momentum and weight decay."""
    return lib.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4)


def adam(lib: Minidl, params: Any) -> Any:
    """Adam as the library does it best."""
    return lib.adam(params, lr=1e-3)


def adamw(lib: Minidl, params: Any) -> Any:
    """AdamW as the library does it best."""
    return lib.adamw(params, lr=1e-3)


def count_parameters(model: Any, expected: int) -> None:
    """Refuse a model that is not the one that both libraries must build."""
    found = sum(math.prod(p.shape) for p in model.parameters())
    if found != expected:
        raise WrongResult(f"the model has {found:,} parameters, not {expected:,}")


def training(
    lib: Minidl, make: Make, parameters: int, optimizer: Callable[..., Any], x: Array, y: Array
) -> Work:
    """Forward, backward and optimizer step of a classifier, of pictures or of every token."""
    model = lib.place(make(lib))
    count_parameters(model, parameters)
    inputs, labels = (lib.images if x.ndim == 4 else lib.tensor)(x), lib.tensor(y)
    optimizer = optimizer(lib, model.parameters())

    def forward() -> Any:
        out = model(inputs)
        out = out[0] if isinstance(out, tuple) else out
        return lib.F.cross_entropy(out.reshape(-1, out.shape[-1]), labels)

    def step() -> float:
        optimizer.zero_grad()
        loss = forward()
        loss.backward()
        optimizer.step()
        return loss.item()

    def check() -> None:
        slope_agrees(lib, forward, [*model.parameters()])
        losses = [step() for _ in range(6)]
        if not min(losses[1:]) < losses[0]:
            raise WrongResult(f"the loss does not fall: {losses}")

    return Work({"step": step}, check)


def slope_agrees(lib: Minidl, forward: Callable[[], Any], params: list[Any]) -> None:
    """The loss along its gradient must change as the gradient says, within 3 %.

    A central difference over ±0.2 % of the loss: rounding is 1e-4 of it, kinks and curvature up to
    1 % in these models.
    """
    loss = forward()
    loss.backward()
    grads = [p.grad.clone() for p in params]
    slope = sum(float(np.square(g.numpy(), dtype=np.float64).sum()) for g in grads)
    size = 2e-3 * loss.item() / slope
    seen = []
    with lib.no_grad():
        for step in (size, -2 * size):
            for p, g in zip(params, grads):
                p.add_(g, alpha=step)
            seen.append(forward().item())
        for p, g in zip(params, grads):
            p.add_(g, alpha=size)
    measured = (seen[0] - seen[1]) / (2 * size)
    if not abs(measured / slope - 1) < 0.03:
        raise WrongResult(f"the loss changes by {measured:.4e}, its gradient says {slope:.4e}")


def images(
    name: str, batch: int, gflops: float, parameters: int, make: Make,
    optimizer: Callable[..., Any] = sgd, layouts: bool = True,
) -> Case:  # fmt: skip
    """A classifier of 32 x 32 pictures; gflops: of one picture forward."""

    def build(lib: Minidl) -> Work:
        labels = np.random.default_rng(1).integers(0, 10, batch)
        return training(lib, make, parameters, optimizer, random(batch, 3, 32, 32), labels)

    cost = Cost(3e9 * gflops * batch, 0)
    return Case(name, "steps", build, {"step": (cost,)}, "step", images=layouts)


def tokens(
    name: str, batch: int, steps: int, vocabulary: int, gflops: float, parameters: int, make: Make,
    optimizer: Callable[..., Any],
) -> Case:  # fmt: skip
    """A language model; gflops: of one sequence forward."""

    def build(lib: Minidl) -> Work:
        text = np.random.default_rng(0).integers(0, vocabulary, (batch, steps + 1))
        return training(lib, make, parameters, optimizer, text[:, :-1], text[:, 1:].reshape(-1))

    cost = Cost(3e9 * gflops * batch, 0)
    return Case(name, "steps", build, {"step": (cost,)}, "step")


def features(batch: int) -> Case:
    """ResNet-50's features of 224 x 224 pictures in eval mode."""

    def build(lib: Minidl) -> Work:
        array = random(batch, 3, 224, 224)
        model = lib.place(lib.models.resnet50()).eval()
        count_parameters(model, 25_557_032)
        x = lib.images(array)

        def forward() -> Any:
            with lib.no_grad():
                return model.features(x)

        def check() -> None:
            state = {name: value.numpy() for name, value in model.state_dict().items()}
            wanted = oracle.resnet50(state, array[:1])
            terms = sum(v[0].size for v in state.values() if v.ndim == 4)
            agree("features", forward().numpy(), Expected(wanted, terms, slice(0, 1)))

        return Work({"step": forward}, check)

    cost = Cost(8.178e9 * batch, 0)
    return Case("resnet50_224_features_b16", "steps", build, {"step": (cost,)}, "step", images=True)


def cases(small: bool = False) -> list[Case]:
    """The models of the projects at the sizes that they train with."""

    def b(batch: int) -> int:
        return 4 if small else batch

    return [
        images("vgg3_cifar_b128", b(128), 0.0778, 551_466, lambda lib: lib.models.vgg3()),
        images("resnet20_cifar_b128", b(128), 0.0816, 272_474,
               lambda lib: lib.models.cifar_resnet(20)),
        images("resnet18_cifar_b64", b(64), 1.111, 11_173_962,
               lambda lib: lib.models.resnet18(stem="cifar", num_classes=10)),
        images("convmixer256_8_b64", b(64), 0.2962, 594_186,
               lambda lib: lib.models.ConvMixer(), adamw),
        images("vit_tiny_cifar_b128", b(128), 0.5480, 4_028_170,
               lambda lib: lib.models.ViT(), adamw, layouts=False),
        tokens("charlstm_h256_2l_b64", b(64), 100, 80, 0.2138, 1_093_712,
               lambda lib: lib.models.CharRNN(80), adam),
        tokens("gpt_nano_6l_b16", b(16), 16 if small else 256, 65, 5.751, 10_770_816,
               lambda lib: lib.models.GPT(65), adamw),
        features(1 if small else 16),
    ]  # fmt: skip
