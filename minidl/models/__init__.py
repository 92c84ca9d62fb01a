"""Models, one file a family."""

from minidl.models.char_rnn import CharRNN
from minidl.models.convmixer import ConvMixer
from minidl.models.gpt import GPT
from minidl.models.resnet import ResNet, cifar_resnet, resnet18, resnet34, resnet50
from minidl.models.vgg import VGG, vgg3
from minidl.models.vit import ViT
