"""Data sets, loaders and transforms under PyTorch's and torchvision's names."""

from minidl.data import transforms
from minidl.data.dataset import ConcatDataset, Dataset, Subset, TensorDataset, Text, random_split
from minidl.data.images import ImageArrays, ImageFolder, read_image
from minidl.data.loader import DataLoader, IterableDataset, default_collate, default_convert
from minidl.data.official import CIFAR10, CIFAR100, MNIST, FashionMNIST, OxfordIIITPet
from minidl.data.samplers import BatchSampler, Sampler, WeightedRandomSampler
from minidl.data.wide import (
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    get_worker_info,
    make_grid,
    save_image,
)  # fmt: skip
