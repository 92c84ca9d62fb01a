"""Language models' options against plain NumPy: GPT's variants, layer-normed cells, seq2seq."""

import math

import numpy as np
import pytest
from test_models import by_whole_passes

import minidl as ml
import minidl.functional as F
from minidl.errors import ShapeError
from minidl.models import GPT, CharRNN
from minidl.models.gpt import rotations
from projects.textgen.seq2seq import Attention, Seq2Seq

SIZES = {"block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 16}
LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
VARIANTS = {
    "plain": {},
    "gpt2": {"mlp": "gelu_tanh"},
    "llama": {**LLAMA, "n_kv_head": 2, "hidden": 20},
    "untied": {**LLAMA, "tie": False},
    "multi_query": {"n_kv_head": 1, "eps": 0.1, "hidden": 24, "bias": False},
    "rotary": {"positions": "rotary"},
    "rms": {"norm": "rms", "eps": 0.1},
    "gated": {"mlp": "swiglu", "positions": "rotary", "n_kv_head": 2},
}


def make_gpt(name, **more):
    """A GPT whose every parameter, biases and scales too, is far from its first value."""
    ml.manual_seed(5)
    model = GPT(11, **SIZES, **VARIANTS[name], **more)
    rng = np.random.default_rng(6)
    for p in model.parameters():
        p.array[...] = rng.normal(p.ndim == 1, 0.3, p.shape)
    return model.eval()


def norm(x, state, name, kind, eps):
    """Layer or RMS norm over the last axis."""
    x = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y * state[name + ".weight"] + state.get(name + ".bias", 0.0)


def linear(x, state, name):
    return x @ state[name + ".weight"].T + state.get(name + ".bias", 0.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def turned(x):
    """x (T, d), its pairs as complex numbers turned by place · 10000^(-2i / d)."""
    t, d = x.shape
    angles = np.arange(t)[:, None] / 10000.0 ** (np.arange(0, d, 2) / d)
    y = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    return np.stack([y.real, y.imag], -1).reshape(t, d)


def attention(x, state, name, options):
    """Causal attention of one text x (T, dim), head by head."""
    (t, dim), heads = x.shape, SIZES["n_head"]
    kv_heads, d = options.get("n_kv_head", heads), dim // heads
    rows = linear(x, state, name + ".c_attn")
    every = [rows[:, k : k + d] for k in range(0, rows.shape[1], d)]
    outs = []
    for h in range(heads):
        g = h // (heads // kv_heads)
        q, k, v = every[h], every[heads + g], every[heads + kv_heads + g]
        if options.get("positions") == "rotary":
            q, k = turned(q), turned(k)
        scores = np.where(np.tri(t, dtype=bool), q @ k.T / math.sqrt(d), -np.inf)
        outs.append(softmax(scores) @ v)
    return linear(np.concatenate(outs, -1), state, name + ".c_proj")


def mlp(x, state, name, kind):
    if kind == "swiglu":
        a = linear(x, state, name + ".w1")
        return linear(a * sigmoid(a) * linear(x, state, name + ".w3"), state, name + ".w2")
    a = linear(x, state, name + ".c_fc")
    if kind == "gelu":
        a = a * (1 + np.vectorize(math.erf)(a / math.sqrt(2))) / 2
    else:
        a = a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) / 2
    return linear(a, state, name + ".c_proj")


def reference(model, options, tokens):
    """Logits (T, V) of one text in float64."""
    state = {k: v.numpy().astype(np.float64) for k, v in model.state_dict().items()}
    kind, eps = options.get("norm", "layer"), options.get("eps", 1e-5)
    x = state["transformer.wte.weight"][tokens]
    if options.get("positions") != "rotary":
        x = x + state["transformer.wpe.weight"][: len(tokens)]
    for i in range(SIZES["n_layer"]):
        name = f"transformer.h.{i}."
        x = x + attention(norm(x, state, name + "ln_1", kind, eps), state, name + "attn", options)
        inner = norm(x, state, name + "ln_2", kind, eps)
        x = x + mlp(inner, state, name + "mlp", options.get("mlp", "gelu"))
    return linear(norm(x, state, "transformer.ln_f", kind, eps), state, "lm_head")


@pytest.mark.parametrize("name", VARIANTS)
def test_gpt_numbers(name):
    """Every variant's logits are those of the plain forward, whole and through the cache."""
    model, options, x = make_gpt(name), VARIANTS[name], ml.randint(0, 11, (2, 12))
    want = np.stack([reference(model, options, row) for row in x.numpy()])
    with ml.no_grad():
        whole = model(x).numpy()
        np.testing.assert_allclose(whole, want, rtol=1e-4, atol=1e-4)
        for cuts in ([12], [1] * 12, [5, 1, 6]):
            cache = model.new_cache()
            parts = [model(part, cache) for part in x.split(cuts, 1)]
            np.testing.assert_allclose(ml.cat(parts, 1).numpy(), whole, rtol=1e-5, atol=1e-5)
    shared = options.get("n_kv_head", 4)
    assert {room.shape for room in cache.rooms.values()} == {(2, 2, shared, 16, 4)}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.8, "top_k": 5}])
def test_gpt_generation(name, options):
    """Captured steps give the samples of whole passes, and go on past block_size."""
    model, x = make_gpt(name), ml.tensor([[1, 2, 3], [4, 5, 6]])
    ml.manual_seed(8)
    got = model.generate(x, 12, **options).numpy()
    ml.manual_seed(8)
    with ml.no_grad():
        np.testing.assert_array_equal(got, by_whole_passes(model, x, 12, **options))
    assert model.generate(x, 20, **options).shape == (2, 23)


@pytest.mark.parametrize("name", VARIANTS)
def test_gpt_trains(name):
    """Gradients, with dropout of attention too, reach every parameter; a few steps fit a batch."""
    ml.manual_seed(9)
    model = GPT(11, **SIZES, **VARIANTS[name], dropout=0.1)
    optimizer = ml.optim.Adam(model.parameters(), lr=0.01)
    x, losses = ml.randint(0, 11, (4, 8)), []
    for _ in range(15):
        loss = F.cross_entropy(model(x).reshape(-1, 11), x.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(np.abs(p.grad.numpy()).max() > 0 for p in model.parameters())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", ["llama", "rotary", "multi_query"])
def test_gpt_gradients(name):
    """A block's gradient is that of differences."""
    model, x = make_gpt(name).double(), ml.randn(2, 5, 16, dtype=ml.float64)
    block, table = model.transformer.h[0], model.rotations
    x.requires_grad_(True)
    angles = None if table is None else table[:5]
    assert ml.gradcheck(lambda x: block(x, None, None, angles), (x,))


def test_rotations_by_hand():
    """Place 1 turns the first pair by 1 and the second by 1 / 100: values written out."""
    cos, sin = rotations(2, 4).reshape(2, 2, 4).transpose(1, 0, 2)
    np.testing.assert_array_equal((cos[0], sin[0]), ([1, 1, 1, 1], [0, 0, 0, 0]))
    np.testing.assert_allclose(cos[1], [0.5403023, 0.5403023, 0.99995, 0.99995], atol=1e-6)
    np.testing.assert_allclose(sin[1], [-0.841471, 0.841471, -0.0099998, 0.0099998], atol=1e-6)


def test_gpt_names_and_counts():
    """Plain names are as they were; the other parts have theirs; shared heads are fewer rows."""
    plain = GPT(11, **{**SIZES, "n_layer": 1}).state_dict()
    block = [f"{part}.{kind}" for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc",
             "mlp.c_proj") for kind in ("weight", "bias")]  # fmt: skip
    around = ["transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight",
              "transformer.ln_f.bias", "lm_head.weight"]  # fmt: skip
    assert set(plain) == {*around, *(f"transformer.h.0.{name}" for name in block)}
    state = make_gpt("llama").state_dict()
    assert "transformer.wpe.weight" not in state and "rotations" not in state
    assert state["transformer.h.1.attn.c_attn.weight"].shape == (16 + 2 * 8, 16)
    for name, shape in (("w1", (20, 16)), ("w2", (16, 20)), ("w3", (20, 16))):
        assert state[f"transformer.h.0.mlp.{name}.weight"].shape == shape
    untied = make_gpt("untied")
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert untied.transformer.h[0].mlp.w1.weight.shape == (8 * 16 // 3, 16)


@pytest.mark.parametrize("options, text", [
    ({"positions": "sine"}, r"positions must be one of \['learned', 'rotary'\]; got positions 's"),
    ({"norm": "batch"}, "norm must be one of"),
    ({"mlp": "relu"}, "mlp must be one of"),
    ({"n_kv_head": 3}, "n_kv_head must divide n_head, .*; got n_kv_head 3, n_head 4, n_embd 16"),
    ({"n_head": 5}, ".*n_head must divide n_embd; got n_kv_head 5, n_head 5"),
    ({"n_kv_head": 0}, ".*got n_kv_head 0, n_head 4"),
    ({"n_head": 16, "positions": "rotary"}, "rotary heads must have an even size; got size 1"),
])  # fmt: skip
def test_gpt_mistakes(options, text):
    """Unknown choices and heads that do not fit are named."""
    with pytest.raises(ShapeError, match="GPT: " + text):
        GPT(11, **{**SIZES, **options})


def make_rnn(kind, layers=2, **more):
    """A layer-normed CharRNN with scales and shifts far from one and zero."""
    ml.manual_seed(1)
    model = CharRNN(13, kind=kind, hidden_size=6, num_layers=layers, embedding_dim=5,
                    layer_norm=True, **more)  # fmt: skip
    rng = np.random.default_rng(2)
    for p in model.parameters():
        p.array[...] = rng.normal(p.ndim == 1, 0.5, p.shape)
    return model.eval()


def normed_gates(a, state, name, groups):
    """a (B, G·6) -> the gates, each group of them normalised at once."""
    done, parts = 0, []
    for i, count in enumerate(groups):
        part = norm(a[:, done : done + 6 * count], state, f"rnn.norm_{name}.{i}", "layer", 1e-5)
        parts += np.split(part, count, -1)
        done += 6 * count
    return parts


def cell(kind, x, h, c, state, layer):
    """One step of one layer: the next h (B, 6) and c."""
    groups = {"rnn": [1], "lstm": [4], "gru": [2, 1]}[kind]
    sides = [normed_gates(v @ state[f"rnn.weight_{k}_l{layer}"].T, state, f"{k}_l{layer}", groups)
             for k, v in (("ih", x), ("hh", h))]  # fmt: skip
    if kind == "gru":
        (r, z, n), (hr, hz, hn) = sides
        n, z = np.tanh(n + sigmoid(r + hr) * hn), sigmoid(z + hz)
        return (1 - z) * n + z * h, c
    summed = [a + b for a, b in zip(*sides)]
    if kind == "rnn":
        return np.tanh(summed[0]), c
    i, f, g, o = summed
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(norm(c, state, f"rnn.norm_c_l{layer}", "layer", 1e-5)), c


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_normed_cells_numbers(kind, layers):
    """Logits and last states from given states are those of a plain loop over steps."""
    model = make_rnn(kind, layers)
    tokens, rng = ml.randint(0, 13, (3, 5)), np.random.default_rng(3)
    first = rng.normal(size=(2, layers, 3, 6)).astype(np.float32)
    given = (ml.tensor(first[0]), ml.tensor(first[1]))
    logits, last = model(tokens, given if kind == "lstm" else given[0])
    state = {k: v.numpy().astype(np.float64) for k, v in model.state_dict().items()}
    h, c = first.astype(np.float64)
    for t in range(5):
        x = state["embedding.weight"][tokens.numpy()[:, t]]
        for k in range(layers):
            h[k], c[k] = cell(kind, x, h[k], c[k], state, k)
            x = h[k]
        want = linear(x, state, "head")
        np.testing.assert_allclose(logits.detach().numpy()[:, t], want, rtol=1e-3, atol=2e-4)
    for got, end in zip(last if kind == "lstm" else [last], (h, c)):
        np.testing.assert_allclose(got.detach().numpy(), end, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_normed_cells_train_and_generate(kind):
    """Gradients are those of differences, reach all parameters; captured steps, state, reload."""
    model, x = make_rnn(kind, dropout=0.2), ml.randint(0, 13, (3, 6))
    F.cross_entropy(model.train()(x)[0].reshape(-1, 13), x.reshape(-1)).backward()
    assert all(np.abs(p.grad.numpy()).max() > 0 for p in model.parameters())
    model.eval()
    whole = model(x)[0].detach().numpy()
    logits, state = model(x[:, :4])
    both = ml.cat([logits, model(x[:, 4:], state)[0]], 1)
    np.testing.assert_allclose(both.detach().numpy(), whole, atol=1e-6)
    other = CharRNN(13, kind=kind, hidden_size=6, embedding_dim=5, layer_norm=True).eval()
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(x)[0].detach().numpy(), whole)
    for options in ({"temperature": 0}, {"temperature": 0.8}):
        ml.manual_seed(3)
        got = model.generate(x, 10, **options).numpy()
        ml.manual_seed(3)
        with ml.no_grad():
            np.testing.assert_array_equal(got, by_whole_passes(model, x, 10, **options))
    rnn = model.rnn.double()
    steps, h = (ml.randn(*shape, dtype=ml.float64) for shape in ((4, 2, 5), (2, 2, 6)))
    given = [a.requires_grad_(True) for a in (steps, h, h.flip(0).detach())]
    given = given if kind == "lstm" else given[:2]
    assert ml.gradcheck(lambda x, *states: rnn(x, states)[0], given)


def test_normed_cells_begin_as_usual():
    """Scales one, shifts zero, weights within 1 / √hidden; without layer norm nothing changes."""
    model = CharRNN(13, hidden_size=16, layer_norm=True)
    for name, p in model.rnn.named_parameters():
        if p.ndim == 2:
            assert 0.2 < np.abs(p.detach().numpy()).max() <= 0.25
        else:
            assert (p.detach().numpy() == name.endswith("weight")).all()
    with pytest.raises(ShapeError, match="CharRNN: kind must be one of"):
        CharRNN(13, kind="transformer", layer_norm=True)
    with pytest.raises(ShapeError, match="the state must be h and c; got given 1"):
        model(ml.tensor([[1]]), ml.zeros(2, 1, 16))


@pytest.mark.parametrize("kind", ["bahdanau", "dot"])
def test_attention_numbers_and_gradients(kind):
    """Context and weights written out; their gradients are those of differences."""
    ml.manual_seed(4)
    layer, rng = Attention(3, 4, 5, kind).double(), np.random.default_rng(5)
    q, memory = rng.normal(size=(2, 3)), rng.normal(size=(2, 6, 4))
    mask = np.arange(6) < np.array([[4], [6]])
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    queries, keys = q @ state["query.weight"].T, memory @ state["key.weight"].T
    weights = np.zeros((2, 6))
    for b, n in enumerate((4, 6)):
        scores = keys[b, :n] @ queries[b] / math.sqrt(5)
        if kind == "bahdanau":
            scores = np.tanh(keys[b, :n] + queries[b]) @ state["score.weight"][0]
        weights[b, :n] = softmax(scores)

    def run(q, memory):
        return layer(q, layer.key(memory), memory, ml.tensor(mask))

    given = [ml.tensor(a, requires_grad=True) for a in (q, memory)]
    context, got = run(*given)
    np.testing.assert_allclose(got.detach().numpy(), weights, atol=1e-12)
    want = np.einsum("bs,bsm->bm", weights, memory)
    np.testing.assert_allclose(context.detach().numpy(), want, atol=1e-12)
    assert ml.gradcheck(run, given)


@pytest.mark.parametrize("kind", ["bahdanau", "dot"])
def test_seq2seq_does_not_see_padding(kind):
    """A sentence among longer ones gives what it gives alone, whatever its padding is."""
    ml.manual_seed(6)
    model = Seq2Seq(9, 7, embedding_dim=4, hidden_size=6, attention=kind).eval()
    source, target = ml.randint(0, 9, (3, 5)), ml.randint(0, 7, (3, 4))
    lengths = [2, 4, 1]
    logits, weights = model(source, lengths, target)
    assert logits.shape == (3, 4, 7) and weights.shape == (3, 4, 5)
    np.testing.assert_allclose(weights.detach().numpy().sum(-1), 1, atol=1e-6)
    other = source.clone()
    for b, n in enumerate(lengths):
        assert not weights.detach().numpy()[b, :, n:].any()
        other[b, n:] = 8 - other[b, n:]
        alone, seen = model(source[b : b + 1, :n], ml.tensor([n]), target[b : b + 1])
        np.testing.assert_allclose(alone[0].detach(), logits[b].detach(), atol=1e-6)
        np.testing.assert_allclose(seen[0].detach(), weights[b, :, :n].detach(), atol=1e-6)
    again = model(other, lengths, target)[0].detach().numpy()
    np.testing.assert_array_equal(again, logits.detach().numpy())


@pytest.mark.parametrize("kind", ["bahdanau", "dot"])
def test_seq2seq_learns_to_copy(kind):
    """After some steps short texts come back, each token looking at its own place."""
    begin, end, rng = 0, 1, np.random.default_rng(7)
    ml.manual_seed(7)
    model = Seq2Seq(6, 6, embedding_dim=16, hidden_size=32, attention=kind)
    optimizer = ml.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        n = rng.integers(1, 4, 32)
        source = rng.integers(2, 6, (32, 3))
        wanted = np.full((32, 4), -100)  # cross entropy's ignore_index
        for row, tokens, count in zip(wanted, source, n):
            row[: count + 1] = *tokens[:count], end
        given = np.concatenate([np.full((32, 1), begin), np.maximum(wanted[:, :-1], 0)], 1)
        logits, _ = model(ml.tensor(source), n.tolist(), ml.tensor(given))
        loss = F.cross_entropy(logits.reshape(-1, 6), ml.tensor(wanted).reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    source = ml.tensor([[2, 5, 3], [4, 2, 2], [5, 2, 2]])
    tokens, weights = model.eval().translate(source, [3, 1, 2], 10, begin, end)
    assert tokens.tolist() == [[2, 5, 3, end], [4, end, end, end], [5, 2, end, end]]
    assert weights.shape == (3, 4, 3)
    teacher = model(source, [3, 1, 2], ml.tensor([[begin], [begin], [begin]]))[1]
    np.testing.assert_allclose(weights[:, :1], teacher.detach(), atol=1e-6)
    assert model.translate(source, [3, 1, 2], 2, begin, end)[0].shape == (3, 2)


def test_seq2seq_mistakes():
    """What does not fit is named."""
    with pytest.raises(ShapeError, match=r"Attention: kind must be one of .*; got kind 'none'"):
        Seq2Seq(9, 7, attention="none")
    model = Seq2Seq(9, 7, embedding_dim=4, hidden_size=6)
    source, target = ml.zeros(2, 3, dtype=ml.int64), ml.zeros(2, 4, dtype=ml.int64)
    for lengths in ([3], [0, 3], [3, 4]):
        with pytest.raises(ShapeError, match="Seq2Seq: lengths must be 2 numbers from 1 to 3"):
            model(source, lengths, target)
    with pytest.raises(ShapeError, match=r"target must be \(B, T\), with as many rows"):
        model(source, [3, 3], target[:1])
    with pytest.raises(ShapeError, match=r"source must be \(B, S\)"):
        model(source[0], [3, 3, 3], ml.zeros(3, 1, dtype=ml.int64))
    with pytest.raises(ShapeError, match="translate: max_tokens must be positive; got max_tokens"):
        model.translate(source, [3, 3], 0, 0, 1)
