"""Models, one file a family."""

# fmt: off
# isort: off
from minidl.models.blocks import Classifier, Section
from minidl.models.char_rnn import CharRNN
from minidl.models.convmixer import ConvMixer
from minidl.models.convnext import ConvNeXt, convnext_base, convnext_small, convnext_tiny
from minidl.models.efficientnet import efficientnet_b0
from minidl.models.gpt import GPT
from minidl.models.mobilenet import mobilenet_v1, mobilenet_v2
from minidl.models.resnet import (
    ResNet, cifar_resnet, cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56,
    cifar_resnet110, resnet8, resnet18, resnet34, resnet50, resnet101, resnet152,
)
from minidl.models.shufflenet import (
    ShuffleNet, shufflenet_v1, shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from minidl.models.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from minidl.models.vgg import (
    VGG, ImageNetVGG, vgg3, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn,
)
from minidl.models.vit import (
    ViT, VisionTransformer, cifar_vit, deit_base_patch16_224, deit_small_patch16_224,
    deit_tiny_patch16_224, vit_b_16, vit_b_32, vit_l_16,
)
