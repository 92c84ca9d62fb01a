"""Small networks, inputs and outputs for the tests of the finetuning project's methods."""

import numpy as np

import minidl as ml
from minidl import models, nn


def resnet(seed=0, **options):
    """A small network with norms that have seen something, in eval mode."""
    ml.manual_seed(seed)
    return seasoned(models.cifar_resnet(8, 4, width=8, **options))


def seasoned(model):
    """The model with scales and statistics of its norms that are not those of a new one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            fill(module.running_mean, 0.3 * np.random.default_rng(n).standard_normal(n))
            fill(module.running_var, np.random.default_rng(n + 1).uniform(0.5, 2, n))
            fill(module.weight, np.random.default_rng(n + 2).uniform(0.5, 1.5, n))
    return model.eval()


def fill(tensor, values):
    """Overwrite a tensor."""
    with ml.no_grad():
        tensor.copy_(ml.tensor(np.asarray(values, np.float32)))


def noise(*shape, seed=0):
    """Standard normals."""
    return ml.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def outputs(model, x):
    """What the model makes of x, as an array."""
    with ml.no_grad():
        return model(x).numpy()


def arrays(model):
    """A copy of the state."""
    return {name: t.numpy().copy() for name, t in model.state_dict().items()}


def softmax(z):
    """Rows of probabilities."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
