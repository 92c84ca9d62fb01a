"""What make_models.py and test_zoo.py share: which models, their weights and their pictures."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import numpy as np

# Every model, by the side in pixels of the pictures that it is compared on.
SIDES = {
    **dict.fromkeys("cifar_resnet20 cifar_resnet32 cifar_resnet44 cifar_resnet56".split(), 32),
    **dict.fromkeys("cifar_resnet110 resnet8".split(), 32),
    **dict.fromkeys("resnet18 resnet34 resnet50 resnet101 resnet152".split(), 64),
    **dict.fromkeys("vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn".split(), 32),
    **dict.fromkeys("squeezenet1_0 squeezenet1_1 mobilenet_v1 mobilenet_v2".split(), 64),
    **dict.fromkeys("shufflenet_v1 shufflenet_v2_x0_5 shufflenet_v2_x1_0".split(), 64),
    **dict.fromkeys("shufflenet_v2_x1_5 shufflenet_v2_x2_0 efficientnet_b0".split(), 64),
    **dict.fromkeys("convnext_tiny convnext_small convnext_base".split(), 64),
    **dict.fromkeys("vit_b_16 vit_b_32 vit_l_16".split(), 224),
    **dict.fromkeys([f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")], 224),
}
# Models with other options: the name, the side, the options.
VARIANTS = {
    "squeezenet_keras": ("squeezenet1_1", 64, {"ceil_mode": False, "num_classes": 10}),
    "mobilenet_v1_half": ("mobilenet_v1", 63, {"width_mult": 0.5, "padding": "same"}),
    "mobilenet_v2_half": ("mobilenet_v2", 64, {"width_mult": 0.5}),
    "mobilenet_v2_wide": ("mobilenet_v2", 32, {"width_mult": 1.4, "num_classes": 10}),
    "mobilenet_v2_same": ("mobilenet_v2", 63, {"padding": "same"}),
    "efficientnet_same": ("efficientnet_b0", 64, {"padding": "same"}),
    "shufflenet_v1_8": ("shufflenet_v1", 64, {"groups": 8, "num_classes": 10}),
    "shufflenet_v1_wide": ("shufflenet_v1", 32, {"width_mult": 1.5, "num_classes": 10}),
    "shufflenet_v1_half": ("shufflenet_v1", 32, {"groups": 3, "width_mult": 0.5}),
    "vgg16_narrow": ("vgg16", 32, {"hidden": 32, "num_classes": 10}),
    "vgg11_bn_narrow": ("vgg11_bn", 32, {"hidden": 32, "num_classes": 10}),
    "deit_large_pixels": ("deit_tiny_patch16_224", 64, {"image_size": 64, "num_classes": 10}),
    "vit_large_pixels": ("vit_b_16", 32, {"image_size": 32, "num_classes": 10}),
}
# Trained for one step without dropout: the options that switch it off.
TRAINED = {
    "cifar_resnet20": {},
    "resnet8": {},
    "squeezenet1_1": {"dropout": 0.0},
    "mobilenet_v2": {"dropout": 0.0},
    "shufflenet_v1": {},
    "shufflenet_v2_x0_5": {},
    "efficientnet_b0": {"dropout": 0.0, "drop_path": 0.0},
    "vgg11_bn_narrow": {"dropout": 0.0},
    "deit_large_pixels": {},
}


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor that a name stands for, from raw bits, so that any NumPy gives the same.

    Uniform: weights with variance 2 / fan-in, scales and variances in 0.5 … 1.5, shifts in ±0.2.
    """
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(max(1, int(np.prod(shape))))
    values = ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)
    if len(shape) > 1:
        return (values - np.float32(0.5)) * np.float32(np.sqrt(24 / np.prod(shape[1:])))
    if name.endswith(("bias", "running_mean")):
        return (values - np.float32(0.5)) * np.float32(0.4)
    return values + np.float32(0.5)


def pictures(count: int, side: int) -> np.ndarray:
    """Noise (count, 3, side, side) float32 in ±1.7."""
    return seeded("pictures.weight", (count, 3, side, side)) * np.float32(np.sqrt(3 * side**2 / 2))


def digest(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """A hash of all names and shapes, whatever their order."""
    lines = sorted(f"{name} {[*shape]}" for name, shape in shapes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
