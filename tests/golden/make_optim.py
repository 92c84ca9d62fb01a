"""Make the golden values of long optimizer runs: several steps, missing gradients, states.

    python tests/golden/make_optim.py      # needs torch; the tests do not

Gradients and parameters come from NumPy's seeded generators, so optim_runs.npz holds only what
came out, and optim_runs.json the cases. The committed values were made with PyTorch 2.13 on a CPU.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
SHAPES = [(3, 4), (5,), (2, 3, 2, 2)]
STEPS, KEPT = 12, (1, 7, 12)
warnings.simplefilter("ignore")

# name, options, dtype. In every run parameter 1 has no gradient at steps 1 and 5, so counts differ.
RUNS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.05}, "float64"),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "float32"),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "maximize": True}, "float64"),
    ("Adam", {"lr": 0.05, "amsgrad": True}, "float32"),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.2}, "float32"),
    ("AdamW", {"lr": 0.05, "betas": (0.4, 0.7), "amsgrad": True}, "float64"),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "momentum": 0.5, "centered": True}, "float64"),
    ("RMSprop", {"lr": 0.02, "weight_decay": 0.1, "maximize": True}, "float64"),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.1}, "float64"),
    ("Adadelta", {"lr": 0.9, "rho": 0.8, "weight_decay": 0.1, "maximize": True}, "float64"),
    ("Adamax", {"lr": 0.05, "weight_decay": 0.1, "maximize": True}, "float64"),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1, "momentum_decay": 0.2}, "float64"),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}, "float64"),
    ("RAdam", {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}, "float64"),
    ("RAdam", {"lr": 0.05, "maximize": True}, "float32"),
]
SCHEDULES = [
    "CosineAnnealingLR(o, 7, eta_min=0.02)",
    "CosineAnnealingWarmRestarts(o, 4)",
    "CosineAnnealingWarmRestarts(o, 3, T_mult=3, eta_min=0.05)",
    "PolynomialLR(o, 11, 0.7)",
    "MultiStepLR(o, [9, 4, 9])",
    "StepLR(o, 7)",
    "CyclicLR(o, 0.05, 0.5, step_size_up=4, step_size_down=3)",
    "CyclicLR(o, [0.05, 0.1], 0.5, 5, mode='triangular2', base_momentum=0.7)",
    "CyclicLR(o, 0.05, [0.5, 0.4], 4, mode='exp_range', gamma=0.97, cycle_momentum=False)",
    "CyclicLR(o, 0.05, 0.5, 4, scale_fn=lambda n: 1 / n)",
    "CyclicLR(o, 0.05, 0.5, 4, scale_fn=lambda n: 0.9**n, scale_mode='iterations')",
    "OneCycleLR(o, 0.7, total_steps=30, pct_start=0.25, final_div_factor=10)",
    "OneCycleLR(o, 0.7, epochs=5, steps_per_epoch=6, three_phase=True, anneal_strategy='linear')",
    "ChainedScheduler([L.LinearLR(o, 0.25, total_iters=5), L.CosineAnnealingLR(o, 12, 0.01)])",
    "ChainedScheduler([L.ExponentialLR(o, 0.9), L.StepLR(o, 4, 0.5), L.PolynomialLR(o, 20)])",
    "SequentialLR(o, [L.ConstantLR(o, 0.1, 9), L.ExponentialLR(o, 0.8), L.StepLR(o, 3)], [4, 11])",
    "SequentialLR(o, [L.LinearLR(o), L.CosineAnnealingWarmRestarts(o, 4, 2)], [6])",
    "SequentialLR(o, [L.LinearLR(o, 0.01, total_iters=5), L.CosineAnnealingLR(o, 25)], [5])",
]


def run(name: str, options: dict, dtype: str) -> tuple[dict, dict]:
    """Parameters after the kept steps, and the names of the state."""
    rng = np.random.default_rng(0)
    params = [torch.tensor(rng.normal(size=s).astype(dtype), requires_grad=True) for s in SHAPES]
    optimizer = getattr(torch.optim, name)(params, **options)
    out = {}
    for step in range(1, STEPS + 1):
        for i, p in enumerate(params):
            g = rng.normal(size=p.shape).astype(dtype)
            p.grad = None if i == 1 and step in (1, 5) else torch.tensor(g)
        optimizer.step()
        if step in KEPT:
            out |= {f"{step}.{i}": p.detach().numpy().copy() for i, p in enumerate(params)}
    saved = optimizer.state_dict()
    skip = ("foreach", "fused", "capturable", "differentiable")
    names = {
        "state": {str(i): list(entry) for i, entry in saved["state"].items()},
        "group": [key for key in saved["param_groups"][0] if key not in skip],
    }
    return out, names


def rates(text: str) -> np.ndarray:
    """(30, groups, 2): rate and momentum of 30 steps under a schedule."""
    p, q = (torch.zeros(2, requires_grad=True) for _ in range(2))
    groups = [{"params": [p], "lr": 0.3}, {"params": [q]}]
    o = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    s = eval(f"L.{text}", {"L": torch.optim.lr_scheduler, "o": o})
    rows = []
    for _ in range(30):
        rows.append([(g["lr"], g["momentum"]) for g in o.param_groups])
        o.step()
        s.step()
    return np.array(rows)


def main() -> None:
    """Write optim_runs.npz and optim_runs.json."""
    arrays: dict[str, np.ndarray] = {}
    runs = []
    for index, (name, options, dtype) in enumerate(RUNS):
        out, names = run(name, options, dtype)
        arrays |= {f"run{index}.{key}": value for key, value in out.items()}
        runs.append({"name": name, "options": options, "dtype": dtype, **names})
    arrays |= {f"rates{i}": rates(text) for i, text in enumerate(SCHEDULES)}
    np.savez_compressed(HERE / "optim_runs.npz", **arrays)
    cases = {"runs": runs, "schedules": SCHEDULES}
    cases |= {"shapes": SHAPES, "steps": STEPS, "kept": KEPT}
    (HERE / "optim_runs.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
