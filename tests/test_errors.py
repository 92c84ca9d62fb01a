"""Mistakes are refused, as in PyTorch, with an error that names the op and what it got."""

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
import minidl.nn as nn
import minidl.optim as optim
from minidl.errors import MinidlError

RNG = np.random.default_rng(0)
SHAPES = {"v": (3,), "x": (2, 3), "y": (4, 5), "s": (2, 3, 4)}
SHAPES |= {"image": (2, 3, 8, 8), "w": (4, 3, 3, 3)}

WRONG = """
x + y | x * y | x @ x | ml.matmul(x, v[:2]) | ml.mm(x, v) | ml.bmm(s, s) | ml.dot(v, v[:2])
ml.mv(x, x) | ml.einsum('ij,jk->ik', x, x) | ml.einsum('ij->ik', x) | ml.einsum('ijk', x)
ml.maximum(x, y) | ml.where(x > 0, x, y) | ml.pow(x, y) | x.masked_fill(y > 0, 1.0) | x.sum(2)
x.sum(-3) | x.sum((0, 0)) | x.mean(dim=5) | ml.arange(3).mean() | x.max(3) | x.argmax(2)
x[:0].max() | x[:0].argmax() | x.cumsum(2) | x.sort(2) | x.topk(9) | x.topk(1, 7) | x.std(4)
x.reshape(7) | x.reshape(-1, -1) | x.reshape(-1, 4) | x.view(5) | x.t().view(6) | x.permute(0, 0)
x.permute(0) | x.transpose(0, 2) | s.t() | x.flatten(2) | s.flatten(2, 1) | x.squeeze(3)
x.unsqueeze(4) | x.expand(3, 3) | x.expand(3) | ml.broadcast_to(x, (2, 4)) | x.repeat(2) | x.flip(2)
ml.cat([x, y]) | ml.cat([x, s]) | ml.cat([]) | ml.cat([x, x], 2) | ml.stack([x, y]) | ml.stack([])
x.chunk(0) | x.split([1, 5], 1) | x.split(2, 3) | x.unbind(4) | x.narrow(1, 2, 3)
x.narrow(0, 5, 1) | x.gather(1, ml.tensor([[9]])) | x.gather(1, ml.tensor([0]))
x.gather(1, ml.tensor([[0.5]])) | x.scatter(1, ml.tensor([[7]]), 1.0)
x.scatter_add(1, ml.tensor([[7]]), x) | x[5] | x[0, 0, 0] | x[:, 9] | x[[0, 9]]
x[ml.tensor([True, False, True])] | x[0.5] | x.index_select(0, ml.tensor([4])) | x.diagonal(0, 0, 0)
v.tril() | x.item() | bool(x) | int(x) | ml.tensor([[1, 2], [3]]) | ml.zeros(-1) | ml.eye(-2)
ml.arange(0, 5, -1) | ml.linspace(0, 1, -1) | ml.randint(3, 1, (2,)) | ml.multinomial(v.abs(), 7)
ml.bernoulli(v + 5) | ml.tensor([True]) - ml.tensor([True]) | F.linear(x, y)
F.linear(x, ml.zeros(5, 3), ml.zeros(4)) | F.linear(x, ml.zeros(5, 3, dtype=ml.float64))
F.conv2d(image, w[:, :2]) | F.conv2d(x, w) | F.conv2d(image, w, stride=0)
F.conv2d(image, w, padding=-1) | F.conv2d(image, w, groups=2)
F.conv2d(image, ml.zeros(4, 3, 9, 9)) | F.conv2d(image, w, ml.zeros(3))
F.conv2d(image, w, padding='same', stride=2) | F.conv2d(image, w, padding='sane')
F.conv2d(image, w.double()) | F.conv1d(image, w) | F.conv_transpose2d(image, w)
F.conv_transpose2d(image, ml.zeros(3, 4, 3, 3), output_padding=1) | F.max_pool2d(image, 9)
F.max_pool2d(image, 2, padding=2) | F.avg_pool2d(image, 0) | F.avg_pool2d(v, 2)
F.batch_norm(image, v, ml.ones(4)) | F.batch_norm(image[:1, :, :1, :1], None, None, training=True)
F.batch_norm(image, None, None) | F.layer_norm(x, (4,)) | F.layer_norm(x, (3,), ml.ones(2))
F.group_norm(image, 2) | F.group_norm(image, 3, ml.ones(2)) | F.rms_norm(x, (4,)) | F.pad(x, (1,))
F.pad(x, (1, 1, 1, 1, 1, 1)) | F.pad(s, (4, 4), mode='reflect') | F.pad(x, (1, 1), mode='odd')
F.interpolate(image) | F.interpolate(image, size=4, scale_factor=2)
F.interpolate(image, size=4, mode='odd') | F.interpolate(image, scale_factor=2, align_corners=True)
F.interpolate(v, scale_factor=2) | F.pixel_shuffle(image, 2) | F.unfold(x, 2) | F.fold(s, (4, 4), 2)
F.dropout(x, 1.5) | F.dropout(x, -0.1) | F.embedding(ml.tensor([9]), x) | F.embedding(v, x)
F.one_hot(ml.tensor([3]), 2) | F.one_hot(ml.tensor([-1])) | F.cross_entropy(x, ml.tensor([0]))
F.cross_entropy(x, ml.tensor([0, 3])) | F.cross_entropy(x, ml.tensor([0, -1]))
F.cross_entropy(x, y) | F.cross_entropy(x, ml.tensor([0, 1]), weight=ml.ones(2))
F.nll_loss(x, ml.tensor([0, 5])) | F.cross_entropy(x, ml.tensor([0, 1]), reduction='average')
F.cross_entropy(x, ml.tensor([0, 1]), label_smoothing=2.0)
F.cross_entropy(x, ml.tensor([0.0, 1.0])) | F.binary_cross_entropy(x, y)
F.binary_cross_entropy_with_logits(x, y)
F.kl_div(x, x, reduction='some') | F.mse_loss(x, x, reduction='some') | F.glu(x) | F.softmax(x, 2)
F.log_softmax(x, dim=-3) | F.prelu(x, ml.ones(2)) | F.gelu(x, approximate='erf')
F.scaled_dot_product_attention(s, s, s[:, :2]) | F.scaled_dot_product_attention(s, s[..., :3], s)
F.scaled_dot_product_attention(s, s, s, attn_mask=ml.ones(3, 3), is_causal=True)
F.cosine_similarity(x, y) | nn.Linear(3, 2)(y) | nn.Conv2d(3, 4, 3, groups=2)
nn.Conv2d(3, 4, 3)(x) | nn.BatchNorm2d(3)(x) | nn.BatchNorm2d(4)(image) | nn.BatchNorm1d(3)(image)
nn.LSTM(5, 2)(s) | nn.LSTM(4, 2, proj_size=2) | nn.MultiheadAttention(5, 2) | nn.Dropout(2.0)
nn.Embedding(3, 2, padding_idx=7) | nn.GroupNorm(2, 3) | nn.Linear(3, 2).load_state_dict({})
nn.Linear(3, 2).load_state_dict(nn.Linear(2, 2).state_dict()) | optim.SGD([], lr=0.1)
optim.SGD([p], lr=-1.0) | optim.SGD([p], nesterov=True) | optim.Adam([p], betas=(1.5, 0.9))
optim.SGD([p * 2]) | optim.Adam([p], eps=-1.0) | optim.SGD([{'params': [p]}, {'params': [p]}])
optim.lr_scheduler.OneCycleLR(optim.SGD([p]), 0.1) | x.requires_grad_().numpy() | x.backward()
ml.tensor([1, 2], requires_grad=True) | ml.grad(x.sum(), x) | p.add_(1.0) | ml.arange(3).add_(0.5)
x.__setitem__(0, None) | x.__setitem__(0, 'a') | x.index_put((ml.tensor([0, 1]),), ml.ones(7))
x.__setitem__(0, ml.ones(2, 3))
x.repeat(-1, 1) | x.flip(0, 0) | x.split([4, -1], 1) | x.movedim((0, 1), (1, 1))
x.movedim((0,), (0, 1)) | x[0, 0].gather(0, ml.tensor([5]))
x.repeat_interleave(-1) | x.repeat_interleave(ml.tensor([1, 2]), 1)
ml.einsum('ii->i', x) | ml.cdist(x, y[:, :1]) | v.clone().normal_(0, -1)
v.clone().uniform_(1, 0) | ml.multinomial(v.abs(), -1) | F.cross_entropy(x, x, weight=ml.ones(1))
ml.arange(0, float('inf')) | ml.tensor(2**63) | ml.tensor([300], dtype=ml.uint8) | ml.tensor('a')
F.interpolate(ml.arange(16).view(1, 1, 4, 4), size=2, mode='bilinear')
ml.arange(3) & 2.5 | 2.5 ^ ml.arange(3) | (v > 1) & v | v & (v > 1)
ml.mv(x, x.t()) | ml.mm(x, v) | ml.bmm(s, s[0].t()) | ml.dot(x, v) | ml.outer(x, v) | ml.diag(s)
x.topk(-1) | x.scatter_add(1, ml.tensor([[0]]), x.double()) | ml.zeros(2, device='tpu')
x[:1].expand(2, 3).add_(1.0) | x[:1].expand(2, 3).__setitem__(0, 1.0)
"""
CALLS = [call for line in WRONG.strip().split("\n") for call in line.split(" | ")]


@pytest.mark.parametrize("call", CALLS)
def test_a_mistake_is_refused(call):
    """The call raises one of minidl's own errors, worded `op: …`."""
    names = {name: ml.tensor(RNG.standard_normal(s).astype("f4")) for name, s in SHAPES.items()}
    names |= {"ml": ml, "F": F, "nn": nn, "optim": optim, "p": ml.ones(2, requires_grad=True)}
    with pytest.raises(MinidlError) as caught:
        eval(call, names)
    assert ": " in str(caught.value), "the message names the op"
