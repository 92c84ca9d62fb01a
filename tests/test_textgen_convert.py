"""Converted weights: minidl's GPT against plain-NumPy forwards of the formats' descriptions."""

import json
import struct

import llama_reference
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as ml
from golden import make_gpt2_random
from minidl.errors import CheckpointError
from minidl.io import save_safetensors
from projects.textgen.convert import load_model, read_gpt2, read_llama2c

ONCE_UPON_A_TIME = [1, 403, 407, 261, 378]  # after the beginning-of-text token
SMALL = (24, 20, 2, 6, 3, 40, 32)  # dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab, seq_len


def logits_of(model, tokens):
    """Logits (T, V) of one text without a cache."""
    with ml.no_grad():
        return model(ml.tensor([tokens])).numpy()[0]


def greedy(model, tokens, n):
    """The n tokens that the model's own generation appends, with its cache."""
    return model.generate(ml.tensor([tokens]), n, temperature=0).numpy()[0, len(tokens) :].tolist()


# ---- llama2.c ------------------------------------------------------------------------------------


def write_llama(path, sizes=SMALL, seed=0):
    """A llama2.c file of random weights -> its path; the tables of rotations hold NaN: unused."""
    dim, hidden, layers, heads, kv_heads, vocab, length = sizes
    rng, d = np.random.default_rng(seed), dim // heads
    matrices = [dim * dim, 2 * dim * kv_heads * d, dim * dim]
    counts = [abs(vocab) * dim, layers * dim, *(layers * m for m in matrices), layers * dim]
    counts += [3 * layers * hidden * dim, dim]
    parts = [rng.normal(0, 0.4, n) for n in counts]
    parts += [np.full(length * d, np.nan), rng.normal(0, 0.4, -vocab * dim if vocab < 0 else 0)]
    path.write_bytes(struct.pack("<7i", *sizes) + np.concatenate(parts).astype("<f4").tobytes())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for the files of drawn models."""
    return tmp_path_factory.mktemp("models")


@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_drawn_llamas_agree_with_the_reference(folder, data, seed):
    draw = lambda *range_: data.draw(st.integers(*range_))  # noqa: E731
    kv_heads, half = draw(1, 3), draw(1, 3)
    heads = kv_heads * draw(1, 3)
    vocab = draw(5, 50) * data.draw(st.sampled_from([1, -1]))
    sizes = (2 * half * heads, draw(1, 40), draw(1, 3), heads, kv_heads, vocab, draw(12, 30))
    path = write_llama(folder / "drawn.bin", sizes, seed)
    weights, model = llama_reference.read(path), load_model(path)
    tokens = data.draw(st.lists(st.integers(0, abs(vocab) - 1), min_size=1, max_size=6))
    text = tokens + greedy(model, tokens, 6)
    expected = llama_reference.all_logits(weights, text)
    np.testing.assert_allclose(logits_of(model, text), expected, rtol=1e-5, atol=1e-4)
    for place in range(len(tokens), len(text)):  # up to a tie within the tolerance
        before = expected[place - 1]
        assert before.max() - before[text[place]] <= 2e-4 + 2e-5 * before.max()


@pytest.mark.parametrize("vocab", [40, -40])
def test_a_random_llama_writes_the_reference_s_tokens(tmp_path, vocab):
    path = write_llama(tmp_path / "small.bin", (*SMALL[:5], vocab, SMALL[6]))
    weights, model = llama_reference.read(path), load_model(path)
    assert not model.training
    assert greedy(model, [3, 1], 30) == llama_reference.generate(weights, [3, 1], 30)


def test_stories260k_writes_the_reference_s_256_tokens(real_data):
    path = real_data / "weights/stories260K.bin"
    weights, model = llama_reference.read(path), load_model(path)
    new = llama_reference.generate(weights, ONCE_UPON_A_TIME, 256)
    assert greedy(model, ONCE_UPON_A_TIME, 256) == new
    text = ONCE_UPON_A_TIME + new
    expected = llama_reference.all_logits(weights, text)
    np.testing.assert_allclose(logits_of(model, text), expected, rtol=0, atol=1e-4)


def test_the_reference_writes_the_story_that_llama2c_writes(real_data):
    blob, at, pieces = (real_data / "weights/stories260K_tok512.bin").read_bytes(), 4, []
    while at < len(blob):  # a score, a length, the bytes of the piece
        (length,) = struct.unpack_from("<i", blob, at + 4)
        pieces.append(blob[at + 8 : at + 8 + length].decode("latin-1"))
        at += 8 + length
    weights = llama_reference.read(real_data / "weights/stories260K.bin")
    new = llama_reference.generate(weights, ONCE_UPON_A_TIME, 31)
    story = "".join(pieces[token] for token in ONCE_UPON_A_TIME[1:] + new)
    assert story.startswith(  # of `./run stories260K.bin -z tok512.bin -t 0.0`
        " Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park."
    )


def test_llama2c_sizes_and_arrays(tmp_path):
    sizes, arrays = read_llama2c(write_llama(tmp_path / "a.bin", (*SMALL[:5], -40, 32)))
    assert list(sizes.items()) == [
        ("dim", 24), ("hidden_dim", 20), ("n_layers", 2), ("n_heads", 6), ("n_kv_heads", 3),
        ("vocab_size", 40), ("seq_len", 32),
    ]  # fmt: skip
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "token_embedding_table": (40, 24), "rms_att_weight": (2, 24), "wq": (2, 24, 24),
        "wk": (2, 12, 24), "wv": (2, 12, 24), "wo": (2, 24, 24), "rms_ffn_weight": (2, 24),
        "w1": (2, 20, 24), "w2": (2, 24, 20), "w3": (2, 20, 24), "rms_final_weight": (24,),
        "wcls": (40, 24),
    }  # fmt: skip
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())
    numbers = np.frombuffer((tmp_path / "a.bin").read_bytes(), "<f4", offset=28)
    assert (arrays["token_embedding_table"].reshape(-1) == numbers[: 40 * 24]).all()
    assert (arrays["wcls"].reshape(-1) == numbers[-40 * 24 :]).all()


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_llama2c_file_cut_anywhere_is_refused(folder, share):
    whole = write_llama(folder / "whole.bin").read_bytes()
    cut = folder / "cut.bin"
    cut.write_bytes(whole[: int(share * len(whole))])
    for read in (read_llama2c, load_model):
        with pytest.raises(CheckpointError, match=r"read_llama2c: .*cut\.bin .*; got bytes \d+"):
            read(cut)


@pytest.mark.parametrize(
    "changes, rule",
    [
        ({}, "must be 30204 bytes long by its sizes; got bytes 30205, dim 24, hidden_dim 20, "),
        ({0: 0}, "sizes must not be 0 or less; got dim 0, "),
        ({1: -172}, "sizes must not be 0 or less; got dim 24, hidden_dim -172, "),
        ({5: 0}, "sizes must not be 0 or less"),
        ({3: 5}, "dim must be n_heads times an even number; got dim 24, .*n_heads 5"),
        ({3: 8, 4: 8}, "dim must be n_heads times an even number"),
        ({4: 4}, "n_kv_heads must divide n_heads; got .*n_heads 6, n_kv_heads 4"),
        ({6: 33}, "must be 30220 bytes long by its sizes; got bytes 30205, .*seq_len 33"),
        (dict.fromkeys(range(7), 2**31 - 2), "dim must be n_heads times an even number"),
        ({0: 0x616B3432, 1: 1}, "later version of llama2.c's format than 0, .*; got version 1; ex"),
    ],
)
def test_impossible_llama2c_files_are_refused(tmp_path, changes, rule):
    path = write_llama(tmp_path / "odd.bin")
    sizes = [changes.get(k, size) for k, size in enumerate(SMALL)]
    path.write_bytes(struct.pack("<7i", *sizes) + path.read_bytes()[28:] + b"\n")
    with pytest.raises(CheckpointError, match=f"^read_llama2c: .*odd.bin .*{rule}"):
        load_model(path)


def test_files_that_cannot_be_read_or_are_no_weights(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(CheckpointError, match=f"^read_llama2c: cannot read {path}: "):
            read_llama2c(path)
        with pytest.raises(CheckpointError, match=f"^load_model: cannot read {path}: "):
            load_model(path)
    text = tmp_path / "notes.txt"
    text.write_text("Once upon a time, there was a little girl named Lily.")
    with pytest.raises(CheckpointError, match="notes.txt is no llama2.c file: "):
        load_model(text)


# ---- GPT-2 ---------------------------------------------------------------------------------------


def layer_norm(x, arrays, name):
    """x (T, D) over its own mean and deviation, eps 1e-5."""
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]


def gpt2_logits(arrays, tokens, heads=make_gpt2_random.HEADS):
    """Logits (T, V) in float64 of the GPT-2 whose arrays have Hugging Face's names."""
    w = {name: array.astype(np.float64) for name, array in arrays.items()}
    linear = lambda x, name: x @ w[f"{name}.weight"] + w[f"{name}.bias"]  # noqa: E731
    t, dim = len(tokens), w["wte.weight"].shape[1]
    x = w["wte.weight"][tokens] + w["wpe.weight"][:t]
    for block in sorted({".".join(name.split(".")[:2]) for name in w if name.startswith("h.")}):
        parts = linear(layer_norm(x, w, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k, v = parts.reshape(t, 3, heads, dim // heads).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(dim / heads)
        shares = np.exp(np.where(np.tri(t, dtype=bool), scores, -np.inf))
        shares /= shares.sum(-1, keepdims=True)
        x = x + linear((shares @ v).swapaxes(0, 1).reshape(t, dim), f"{block}.attn.c_proj")
        y = linear(layer_norm(x, w, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))  # "gelu_new"
        x = x + linear(y, f"{block}.mlp.c_proj")
    return layer_norm(x, w, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


def check_gpt2(path, arrays, heads=make_gpt2_random.HEADS, atol=1e-4):
    """The model in `path` has the logits and greedy tokens of the reference."""
    model, tokens = load_model(path), [5, 3, 5, 0]
    text = list(tokens)
    for _ in range(20):
        text.append(int(gpt2_logits(arrays, text, heads)[-1].argmax()))
    assert len(set(text[4:])) > 3, "a monotonous text tests little"
    assert greedy(model, tokens, 20) == text[4:]
    expected = gpt2_logits(arrays, text, heads)
    np.testing.assert_allclose(logits_of(model, text), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("seed, masks", [(0, False), (1, True)])
def test_a_random_gpt2_agrees_with_the_reference(tmp_path, prefix, seed, masks):
    arrays = make_gpt2_random.write(tmp_path, seed=seed, prefix=prefix, masks=masks)
    check_gpt2(tmp_path / "model.safetensors", arrays)


def test_gpt2_with_a_head_of_its_own(tmp_path):
    arrays = make_gpt2_random.write(tmp_path)
    arrays["lm_head.weight"] = np.flip(arrays["wte.weight"], 0).copy()
    path = tmp_path / "model.safetensors"
    path.write_bytes(make_gpt2_random.safetensors_bytes(arrays))
    config, state = read_gpt2(path)
    assert config["tie"] is False
    assert (state["lm_head.weight"] == arrays["lm_head.weight"]).all()
    check_gpt2(path, arrays)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_gpt2_in_half_precision_is_widened(tmp_path, dtype):
    arrays = make_gpt2_random.write(tmp_path)
    narrow = {name: array.astype(dtype) for name, array in arrays.items()}
    save_safetensors(narrow, tmp_path / "model.safetensors")
    assert all(a.dtype == np.float32 for a in read_gpt2(tmp_path / "model.safetensors")[1].values())
    check_gpt2(tmp_path / "model.safetensors", narrow)


def test_gpt2_config_and_transposition(tmp_path):
    arrays = make_gpt2_random.write(tmp_path)
    config, state = read_gpt2(tmp_path / "model.safetensors")
    assert config == {"vocab_size": 97, "block_size": 32, "n_layer": 2, "n_head": 3, "n_embd": 24,
                      "tie": True}  # fmt: skip
    fc = state["transformer.h.1.mlp.c_fc.weight"]
    assert fc.shape == (96, 24) and (fc == arrays["h.1.mlp.c_fc.weight"].T).all()
    assert (state["transformer.wpe.weight"] == arrays["wpe.weight"]).all()


def test_heads_without_config_json_have_64_features(tmp_path, monkeypatch):
    monkeypatch.setattr(make_gpt2_random, "DIM", 128)
    make_gpt2_random.write(tmp_path)
    (tmp_path / "config.json").unlink()
    assert read_gpt2(tmp_path / "model.safetensors")[0]["n_head"] == 2
    monkeypatch.setattr(make_gpt2_random, "DIM", 24)
    make_gpt2_random.write(tmp_path)
    (tmp_path / "config.json").unlink()
    rule = "model.safetensors has no config.json beside it, and .* 64 .*; got n_embd 24"
    with pytest.raises(CheckpointError, match=rule):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "text, rule",
    [
        ('{"n_head": 5}', "n_head must divide n_embd; got n_head 5, n_embd 24"),
        ("{}", "n_head must divide n_embd; got n_head None"),
        (
            '{"n_head": 3, "activation_function": "relu"}',
            "activation_function .*; got value 'relu'",
        ),
        ('{"n_head": 3, "layer_norm_epsilon": 1e-6}', "layer_norm_epsilon must be in .*1e-06"),
        ("[3]", "must be a JSON object; got type <class 'list'>"),
        ('{"n_head": 3', ": Expecting"),
        ("[" * 100_000, ": maximum recursion depth"),
    ],
)
def test_config_json_that_does_not_fit(tmp_path, text, rule):
    make_gpt2_random.write(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"^read_gpt2: .*config.json.*{rule}"):
        load_model(tmp_path / "model.safetensors")


def test_everything_wrong_with_a_gpt2_is_listed_at_once(tmp_path):
    arrays = make_gpt2_random.write(tmp_path)
    del arrays["h.1.ln_2.bias"]
    arrays["h.0.attn.c_attn.weight"] = arrays["h.0.attn.c_attn.weight"].T.copy()
    arrays["h.0.crossattention.bias"] = np.zeros(3, "f4")
    arrays["ln_f.bias"] = np.zeros(24, np.int8)
    save_safetensors(arrays, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "model.safetensors")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("model.safetensors is no whole GPT-2") and lines[1:] == [
        "  missing: h.1.ln_2.bias",
        "  unexpected: h.0.crossattention.bias",
        "  wrong shape: h.0.attn.c_attn.weight (72, 24), not (24, 72)",
        "  not floating: ln_f.bias",
    ]


def test_other_and_damaged_safetensors_are_refused(tmp_path):
    make_gpt2_random.write(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for end in (9, 300, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="model.safetensors .*not a whole safetensors"):
            load_model(path)
    save_safetensors({"model.embed_tokens.weight": np.zeros((2, 2), "f4")}, path)
    with pytest.raises(CheckpointError, match=r"is no GPT-2: .*; got names \['model.embed_tokens"):
        load_model(path)
    beside = json.dumps({"n_head": 1})
    (tmp_path / "config.json").write_text(beside)
    save_safetensors({n: np.zeros((2, 2), "f4") for n in ("wte.weight", "wpe.weight")}, path)
    with pytest.raises(CheckpointError, match="no whole GPT-2\n  missing: h.0.attn.c_attn.bias; "):
        load_model(path)
