"""LSTM layers over whole sequences."""

from __future__ import annotations

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, kernel, passes, random
from benchmarks.library import Minidl

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def lstm(name: str, steps: int, batch: int, size: int, layers: int) -> Case:
    """x (T, B, H) through layers of H units from zero states."""

    def build(lib: Minidl) -> Work:
        array, out = random(steps, batch, size), random(steps, batch, size, seed=1)
        model, x = lib.place(lib.nn.LSTM(size, size, layers)), lib.tensor(array, True)
        leaves = {"x": x, **dict(model.named_parameters())}

        def expect() -> dict[str, Expected]:
            names = [[f"{kind}_l{i}" for kind in KINDS] for i in range(layers)]
            weights = [[leaves[n].detach().numpy() for n in layer] for layer in names]
            values, inputs, kept = {}, [array], []
            for layer in weights:
                kept.append(oracle.lstm(inputs[-1], layer))
                inputs.append(kept[-1][0][1:])
            g = out
            for i in reversed(range(layers)):
                g, grads = oracle.lstm_grads(inputs[i], weights[i], g, *kept[i])
                values |= dict(zip(names[i], grads))
            values |= {"x": g, "y": inputs[-1]}
            terms = steps * batch * size * layers
            return {key: Expected(value, terms) for key, value in values.items()}

        return kernel(lib, lambda: model(x)[0], leaves, lib.tensor(out), expect)

    flops = layers * 16 * steps * batch * size * size
    moved, weights = 4 * steps * batch * size, 32 * layers * size * size
    gates = 4 * moved * layers
    costs = passes(
        Cost(flops, 2 * moved + weights), Cost(2 * flops, gates + 3 * moved + 2 * weights)
    )
    return Case(name, "recurrent", build, costs)


def cases(small: bool = False) -> list[Case]:
    """One layer of 256 and two of 512 units."""
    steps, batch = (5, 4) if small else (64, 64)
    return [
        lstm("lstm_T64_B64_H256_1l", steps, batch, 256, 1),
        lstm("lstm_T64_B64_H512_2l", steps, batch, 512, 2),
    ]
