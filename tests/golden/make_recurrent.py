"""Makes recurrent.npz: PyTorch's outputs and gradients of recurrent layers and of attention.

Run it with any Python that has PyTorch: `python tests/golden/make_recurrent.py`. Each case NAME
holds NAME/in/ARG (inputs), NAME/out/I (outputs), NAME/cot/I (cotangents), NAME/grad/ARG.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

STEPS, BATCH, FEATURES, HIDDEN, PROJECTED = 4, 2, 3, 4, 2
STATES = {"LSTM": ("h0", "c0"), "GRU": ("h0",), "RNN": ("h0",)}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def record(out: dict, name: str, inputs: dict, outputs: tuple) -> None:
    """Add one case; the cotangents are drawn here."""
    cotangents = [torch.randn_like(y) for y in outputs]
    wanted = {k: x for k, x in inputs.items() if x.requires_grad}
    grads = torch.autograd.grad(outputs, list(wanted.values()), cotangents)
    groups = {
        "in": inputs,
        "out": dict(enumerate(outputs)),
        "cot": dict(enumerate(cotangents)),
        "grad": dict(zip(wanted, grads, strict=True)),
    }
    for group, items in groups.items():
        out |= {f"{name}/{group}/{k}": x.detach().numpy() for k, x in items.items()}


def recurrent(out: dict, name: str, kind: str, *, bias: bool = True, reverse: bool = False,
              projected: int = 0, nonlinearity: str = "tanh") -> None:  # fmt: skip
    """One layer in one direction; reverse is the second half of a bidirectional one."""
    more = {"nonlinearity": nonlinearity} if kind == "RNN" else {}
    more |= {"proj_size": projected} if projected else {}
    layer = getattr(torch.nn, kind)(
        FEATURES, HIDDEN, bias=bias, bidirectional=reverse, dtype=torch.float64, **more
    )
    x = torch.randn(STEPS, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    width = projected or HIDDEN
    sizes = {"h0": width, "c0": HIDDEN}
    states = {
        k: torch.randn(BATCH, sizes[k], dtype=torch.float64, requires_grad=True)
        for k in STATES[kind]
    }
    full = [torch.stack([torch.zeros_like(s), s]) if reverse else s[None] for s in states.values()]
    y, last = layer(x, tuple(full) if kind == "LSTM" else full[0])
    lasts = [s[-1] for s in (last if kind == "LSTM" else (last,))]
    suffix = "_l0_reverse" if reverse else "_l0"
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    names |= {"w_hr": "weight_hr"}
    weights = {
        k: getattr(layer, v + suffix) for k, v in names.items() if hasattr(layer, v + suffix)
    }
    record(out, name, {"x": x} | states | weights, (y[..., -width:], *lasts))


def attention(out: dict, name: str, q: tuple, k: tuple, width: int, mask: str = "", **kw) -> None:
    """One call; mask: bool, float, grad (float, requires grad) or dead (bool, a row unseen)."""
    inputs = {
        n: torch.randn(s, dtype=torch.float64, requires_grad=True)
        for n, s in {"q": q, "k": k, "v": (*k[:-1], width)}.items()
    }
    shape = (q[-2], k[-2])
    if mask in ("bool", "dead"):
        seen = torch.rand(shape) > 0.4
        seen[:, 0] = True
        if mask == "dead":
            seen[1] = False
        inputs["mask"] = seen
    elif mask:
        inputs["mask"] = torch.randn(shape, dtype=torch.float64, requires_grad=mask == "grad")
    given = {"attn_mask": inputs["mask"]} if mask else {}
    y = F.scaled_dot_product_attention(inputs["q"], inputs["k"], inputs["v"], **given, **kw)
    record(out, f"attention_{name}", inputs, (y,))


def main() -> None:
    torch.manual_seed(0)
    out: dict[str, np.ndarray] = {}
    for reverse in (False, True):
        end = "_reverse" if reverse else ""
        recurrent(out, f"lstm{end}", "LSTM", reverse=reverse)
        recurrent(out, f"lstm_projected{end}", "LSTM", reverse=reverse, projected=PROJECTED)
        recurrent(out, f"gru{end}", "GRU", reverse=reverse)
        recurrent(out, f"rnn{end}", "RNN", reverse=reverse)
    recurrent(out, "lstm_plain", "LSTM", bias=False)
    recurrent(out, "gru_plain", "GRU", bias=False)
    recurrent(out, "rnn_relu", "RNN", nonlinearity="relu")
    attention(out, "whole", (2, 1, 5, 4), (2, 1, 7, 4), 3)
    attention(out, "causal", (2, 1, 5, 4), (2, 1, 7, 4), 3, is_causal=True)
    attention(out, "causal_tall", (3, 7, 4), (3, 5, 4), 4, is_causal=True)
    attention(out, "bool", (2, 1, 5, 4), (2, 1, 7, 4), 3, mask="bool", scale=0.7)
    attention(out, "dead", (2, 1, 5, 4), (2, 1, 7, 4), 3, mask="dead")
    attention(out, "float", (2, 1, 5, 4), (2, 1, 7, 4), 3, mask="float")
    attention(out, "learnt", (2, 1, 5, 4), (2, 1, 7, 4), 3, mask="grad")
    attention(out, "shared", (1, 4, 3, 4), (1, 2, 5, 4), 3, enable_gqa=True)
    np.savez_compressed(Path(__file__).with_name("recurrent.npz"), **out)


if __name__ == "__main__":
    main()
