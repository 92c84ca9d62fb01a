"""Models: parameter counts, names and shapes, gradients everywhere, the options, generation."""

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
import minidl.nn as nn
from minidl.errors import GraphError, ShapeError
from minidl.models import (
    GPT,
    CharRNN,
    ConvMixer,
    ViT,
    cifar_resnet,
    cifar_vit,
    resnet18,
    resnet34,
    resnet50,
    vgg3,
)
from minidl.models.gpt import Cache
from minidl.models.sampling import Sampler, sample
from projects.convnet.convnext import ConvNeXt
from projects.convnet.speedrun import SpeedrunNet

# Counts of torchvision's ResNets, of the papers' networks, and of the same layers in PyTorch.
COUNTS = [
    (vgg3, 551466),
    (lambda: cifar_resnet(20), 272474),
    (lambda: cifar_resnet(56), 855770),
    (lambda: cifar_resnet(110), 1730714),
    (resnet18, 11689512),
    (resnet34, 21797672),
    (resnet50, 25557032),
    (lambda: resnet18(10, stem="cifar"), 11173962),
    (ConvMixer, 594186),
    (ViT, 4028170),
    (cifar_vit, 4028170),
    (lambda: GPT(65), 10770816),
]

SMALL = {
    "vgg": lambda: vgg3(width=4, dense=8, image_size=16),
    "vgg_none": lambda: vgg3(width=4, dense=0, norm="none", dropout=0.1, rising=0.1, blocks=4),
    "vgg_layer": lambda: vgg3(width=4, dense=0, norm="layer", dropout_first=True, dropout=0.2),
    "vgg_group": lambda: vgg3(width=4, dense=0, norm="group", downsample="stride", skip=True),
    "vgg_instance": lambda: vgg3(width=4, dense=0, norm="instance", squeeze_excite=True),
    "vgg_deep": lambda: vgg3(width=4, dense=0, depthwise=True, kernel_size=5, patch_size=2),
    "resnet_se": lambda: cifar_resnet(8, width=4, squeeze_excite=True),
    "resnet_patch": lambda: cifar_resnet(8, width=4, stem="patch"),
    "resnet18": lambda: resnet18(10, width=4),
    "resnet50": lambda: resnet50(10, width=4, stem="cifar", squeeze_excite=True),
    "convnext": lambda: ConvNeXt(dims=(8, 16), depths=(1, 2), layer_scale=0.1),
    "convmixer": lambda: ConvMixer(dim=8, depth=2),
    "vit": lambda: ViT(image_size=16, dim=12, depth=2, heads=2, dropout=0.1),
    "speedrun": lambda: SpeedrunNet(widths=(8, 8, 8)),
}


@pytest.mark.parametrize("make, count", COUNTS)
def test_parameter_counts(make, count):
    """As many as in the original."""
    assert sum(p.numel() for p in make().parameters()) == count


@pytest.mark.parametrize("name", SMALL)
def test_trains(name):
    """Every trained parameter gets a finite gradient; evaluation repeats itself; state reloads."""
    ml.manual_seed(1)
    model = SMALL[name]()
    size = 16 if name in ("vgg", "vit") else 32
    x = ml.randn(3, 3, size, size)
    loss = F.cross_entropy(model(x), ml.tensor([0, 1, 9]))
    loss.backward()
    for key, param in model.named_parameters():
        assert (param.grad is not None) == param.requires_grad, key
        assert param.grad is None or np.isfinite(param.grad.numpy()).all(), key
    model.eval()
    want = model(x).detach().numpy()
    assert want.shape == (3, 10)
    other = SMALL[name]().eval()
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(x).detach().numpy(), want)


def test_a_step_lowers_the_loss():
    """A few steps of SGD fit a batch."""
    ml.manual_seed(0)
    model = vgg3(width=4, dense=8, image_size=16)
    optimizer = ml.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = ml.randn(16, 3, 16, 16), ml.arange(16) % 10
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_resnet_names_are_torchvisions():
    """First, last and shortcut names."""
    names = list(resnet50().state_dict())
    assert names[:2] == ["conv1.weight", "bn1.weight"] and names[-2:] == ["fc.weight", "fc.bias"]
    for name in ("layer1.0.downsample.1.running_var", "layer4.2.conv3.weight", "layer2.3.bn2.bias"):
        assert name in names


def test_whitening_stem():
    """Its first filters give patches of unit covariance, its others their negatives."""
    model = SpeedrunNet(widths=(8, 8, 8))
    mix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    images = np.einsum("nchw,cd->ndhw", np.random.default_rng(1).normal(size=(64, 3, 32, 32)), mix)
    images = images.astype(np.float32)
    model.init_whiten(images, eps=0.0)
    with ml.no_grad():
        y = model.whiten(ml.tensor(images)).numpy().transpose(1, 0, 2, 3).reshape(24, -1)
    np.testing.assert_allclose(y[12:], -y[:12], atol=1e-4)
    np.testing.assert_allclose(y[:12] @ y[:12].T / y.shape[1], np.eye(12), atol=2e-3)


def test_gpt_sees_only_the_past():
    """Changing a token changes no logits before it."""
    model = GPT(11, block_size=8, n_layer=2, n_head=2, n_embd=8).eval()
    x = ml.tensor([[1, 2, 3, 4, 5]])
    other = ml.tensor([[1, 2, 3, 9, 5]])
    a, b = model(x).detach().numpy(), model(other).detach().numpy()
    np.testing.assert_allclose(a[:, :3], b[:, :3], atol=1e-6)
    assert np.abs(a[:, 3:] - b[:, 3:]).max() > 1e-4
    assert model.lm_head.weight is model.transformer.wte.weight
    with pytest.raises(ShapeError, match="at most block_size = 8 tokens; got length 9"):
        model(ml.arange(9).reshape(1, 9))


def test_gpt_cache_generates_the_same():
    """Greedy tokens with the cache are those of whole forward passes, past block_size too."""
    ml.manual_seed(2)
    model = GPT(11, block_size=8, n_layer=2, n_head=2, n_embd=16).eval()
    x = ml.tensor([[1, 2, 3], [4, 5, 6]])
    got = model.generate(x, 5, temperature=0)
    text = x
    with ml.no_grad():
        for _ in range(5):
            text = ml.cat([text, model(text)[:, -1].argmax(-1, keepdim=True)], 1)
    np.testing.assert_array_equal(got.numpy(), text.numpy())
    assert model.generate(x, 20, top_k=3).shape == (2, 23)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_the_k_likeliest_tokens_are_drawn(k):
    """Each of them, and no other; with k = 1 that is no draw."""
    ml.manual_seed(0)
    logits = ml.tensor([[0.1, 0.7, 0.3, 0.6, 0.2]]).expand(400, 5)
    likeliest = [1, 3, 2, 4, 0]
    assert set(sample(logits, 0.8, k).numpy()[:, 0].tolist()) == set(likeliest[:k])


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-300])
@pytest.mark.parametrize("dtype", [ml.float32, ml.float64])
def test_a_tiny_temperature_is_greedy(temperature, dtype):
    """The quotient overflowed, and an error spoke of weights."""
    logits = ml.tensor([[1.0, 50.0, 3.0], [-80.0, -90.0, -85.0]], dtype=dtype)
    assert sample(logits, temperature).tolist() == [[1], [0]]


def test_gpt_cache_is_filled_without_grad():
    """The cache refuses keys that would lose their graph, and texts beyond its room."""
    model = GPT(11, block_size=8, n_layer=1, n_head=2, n_embd=8).eval()
    x, cache = ml.tensor([[1, 2, 3]]), model.new_cache()
    with pytest.raises(GraphError, match="under no_grad"):
        model(x, cache)
    with ml.no_grad():
        model(x, cache)
        model(x, cache)
        with pytest.raises(ShapeError, match="at most block_size = 8 tokens; got length 9"):
            model(x, cache)
    assert cache.length == 6


def test_gpt_cache_of_another_model_or_batch():
    """A cache went on with any batch, dtype, size and model, with rows that nothing had written."""
    model, other = (GPT(11, block_size=8, n_layer=2, n_head=2, n_embd=8).eval() for _ in range(2))
    x, cache = ml.tensor([[1, 2], [3, 4]]), model.new_cache()
    with ml.no_grad():
        model(x, cache)
        for wrong, tokens in ((model, x[:1]), (model, x.repeat(2, 1)), (other, x)):
            with pytest.raises(ShapeError, match="the batch must be those it began with"):
                wrong(tokens, cache)
        with pytest.raises(ShapeError, match="dtype"):
            model.double()(x, cache)
        for size, tokens in ((1, x), (20, x.repeat(1, 5))):
            with pytest.raises(ShapeError, match="at most block_size"):
                other(tokens, Cache(size))


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1, 1, 1), (3, 5), (4, 1, 3), (8,)])
def test_gpt_cache_takes_a_text_in_parts(cuts):
    """Logits of a text given in parts are those of the whole text."""
    ml.manual_seed(3)
    model = GPT(11, block_size=8, n_layer=2, n_head=2, n_embd=16).eval()
    x, cache, done, parts = ml.randint(0, 11, (2, 8)), model.new_cache(), 0, []
    with ml.no_grad():
        for cut in cuts:
            parts.append(model(x[:, done : done + cut], cache))
            done += cut
        whole = model(x).numpy()
    np.testing.assert_allclose(ml.cat(parts, 1).numpy(), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("length", [3, 30])
def test_language_models_of_tokens_without_batch(kind, length):
    """CharRNN gave them its logits transposed, or an IndexError, as did GPT."""
    model = CharRNN(11, kind=kind, hidden_size=8).eval()
    x = ml.arange(length) % 11
    (whole, states), (logits, state) = model(x[None]), model(x)
    np.testing.assert_allclose(logits.detach().numpy(), whole[0].detach().numpy(), atol=1e-6)
    again, _ = model(x, state)
    np.testing.assert_allclose(
        again.detach().numpy(), model(x[None], states)[0][0].detach().numpy(), atol=1e-6
    )
    with pytest.raises(ShapeError, match=r"GPT: x must be \(B, T\)"):
        GPT(11, block_size=32, n_layer=1, n_head=2, n_embd=8)(x)


def by_whole_passes(model, text, count, **options):
    """What `generate` should give: the model run on all of the text for every token."""
    for _ in range(count):
        logits = model(text)
        logits = logits[0] if isinstance(logits, tuple) else logits
        text = ml.cat([text, sample(logits[:, -1], **options)], 1)
    return text.numpy()


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.8}, {"top_k": 3}])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("make", [
    lambda: GPT(11, block_size=32, n_layer=2, n_head=2, n_embd=16),
    lambda: CharRNN(11, hidden_size=48),
    lambda: CharRNN(11, kind="gru", hidden_size=16),
])  # fmt: skip
def test_generation_without_state_and_threads(make, rows, options):
    """Token by token, at any thread count, the samples are those of whole forward passes."""
    ml.manual_seed(4)
    model = make().eval()
    for parameter in model.parameters():  # far from uniform, so that samples tell models apart
        parameter.array[...] *= 2
    x = ml.randint(0, 11, (rows, 4))
    before = ml.get_num_threads()
    try:
        for threads in (1, 2, 3):
            ml.set_num_threads(threads)
            ml.manual_seed(7)
            got = model.generate(x, 20, **options).numpy()
            ml.manual_seed(7)
            with ml.no_grad():
                np.testing.assert_array_equal(got, by_whole_passes(model, x, 20, **options))
    finally:
        ml.set_num_threads(before)


@pytest.mark.parametrize("make", [
    lambda: GPT(11, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.5),
    lambda: CharRNN(11, hidden_size=16, dropout=0.5),
])  # fmt: skip
def test_generation_while_training(make):
    """A model in training mode drops units anew for every token."""
    model, x = make(), ml.tensor([[1, 2]])
    assert model.training and model.generate(x, 12).shape == (1, 14)


@pytest.mark.parametrize("make", [
    lambda: GPT(11, block_size=8, n_layer=1, n_head=2, n_embd=8), lambda: CharRNN(11, hidden_size=8)
])  # fmt: skip
@pytest.mark.parametrize(
    "options, text",
    [
        ({"temperature": -1.0}, "temperature must be finite and >= 0; got temperature -1.0"),
        ({"top_k": 2.5}, "top_k must be an integer >= 1, or None; got top_k 2.5"),
        ({"temperature": 0.5, "sampler": Sampler()}, "generate: temperature and top_k are the sam"),
        ({"rows": [3]}, "generate: rows need a sampler; got rows .3."),
        ({"x": ml.zeros(2, 0, dtype=ml.int64)}, "generate: x must be .B, T., with a token at lea"),
        ({"max_new_tokens": -1}, "generate: max_new_tokens must be an int >= 0; got max_new"),
        ({"max_new_tokens": 1.5}, "generate: max_new_tokens must be an int >= 0; got max_new"),
    ],
)
def test_generation_refuses_what_it_cannot_do(make, options, text):
    """A negative temperature drew the least likely token; an empty text was an IndexError."""
    given = {"x": ml.zeros(2, 3, dtype=ml.int64), "max_new_tokens": 2, **options}
    with pytest.raises(ShapeError, match=text):
        make().generate(given.pop("x"), given.pop("max_new_tokens"), **given)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_char_rnn(kind):
    """Logits for every character; the state carries over; all parameters are trained."""
    model = CharRNN(13, kind=kind, hidden_size=8, num_layers=2, dropout=0.2)
    x = ml.randint(0, 13, (3, 6))
    logits, state = model(x)
    assert logits.shape == (3, 6, 13)
    F.cross_entropy(logits.reshape(-1, 13), x.reshape(-1)).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    whole, _ = model(x)
    first, state = model(x[:, :4])
    rest, _ = model(x[:, 4:], state)
    both = np.concatenate([first.detach().numpy(), rest.detach().numpy()], 1)
    np.testing.assert_allclose(both, whole.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_more_characters_than_rows(kind, layer_norm):
    """Texts longer than the table is high: rows are multiplied before they are looked up."""
    model = CharRNN(5, kind=kind, hidden_size=8, layer_norm=layer_norm).double()
    x = ml.randint(0, 5, (3, 6))
    y, _ = model.rnn(model.embedding(x.T))
    seen: list[tuple] = []
    model.embedding.register_forward_hook(lambda module, args, y: seen.append(tuple(y.shape)))
    expected = model.head(y).transpose(0, 1).detach()
    np.testing.assert_allclose(model(x)[0].detach(), expected, rtol=1e-12, atol=1e-13)
    assert seen == [(5, 8)]  # the module itself is called, for its table
    assert "tokens" not in model.state_dict()
    F.cross_entropy(model(x)[0].reshape(-1, 5), x.reshape(-1)).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_mistakes():
    """Options out of range are named."""
    with pytest.raises(ShapeError, match="depth must be 6n"):
        cifar_resnet(21)
    with pytest.raises(ShapeError, match="kind must be one of"):
        vgg3(norm="weight")
    with pytest.raises(ShapeError, match="6 blocks leave no pixels; got image_size 32"):
        vgg3(blocks=6)
    with pytest.raises(ShapeError, match="patch_size must divide image_size"):
        ViT(image_size=30, patch_size=4)
    assert isinstance(vgg3(norm="none").blocks[0].norm1, nn.Identity)
