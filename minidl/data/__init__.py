"""Data sets, loaders and transforms under PyTorch's and torchvision's names."""

from minidl.data import transforms
from minidl.data.cifar import CIFAR10, CIFAR100
from minidl.data.dataset import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from minidl.data.embedded import Shapes
from minidl.data.folder import ImageFolder, OxfordIIITPet, read_image
from minidl.data.images import ImageArrays
from minidl.data.loader import DataLoader, default_collate
from minidl.data.mnist import MNIST, FashionMNIST
from minidl.data.sampler import WeightedRandomSampler
from minidl.data.text import Text

__all__ = [
    "CIFAR10", "CIFAR100", "MNIST", "ConcatDataset", "DataLoader", "Dataset", "FashionMNIST",
    "ImageArrays", "ImageFolder", "OxfordIIITPet", "Shapes", "Subset", "TensorDataset", "Text",
    "WeightedRandomSampler", "default_collate", "random_split", "read_image", "transforms",
]  # fmt: skip
