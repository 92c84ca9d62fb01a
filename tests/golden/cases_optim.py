"""Golden cases: parameters after some steps of every optimizer, rates of every schedule."""

from golden.specs import Case, c, case, f

STEPS = """
for k in range({steps}):
    {group}
    o.zero_grad()
    loss = ((p * a - b) ** 2).sum() + (q * q + 0.1 * q * p[0]).sum()
    loss.backward()
    o.step()
p.detach(), q.detach()"""


def trace(text: str, steps: int = 5, group: str = "pass") -> Case:
    """Parameters after `steps` steps of the optimizer that `text` constructs."""
    code = f"o = optim.{text}" + STEPS.format(steps=steps, group=group)
    return case(code, p=f(3, 2), q=f(2), a=c(3, 2, lo=0.3, hi=1), b=c(3, 2))


CASES = [
    trace(f"{name}([p, q]{options})", steps=8)
    for name, variants in {
        "SGD": (
            ", lr=0.05",
            ", lr=0.05, momentum=0.9",
            ", lr=0.05, momentum=0.9, dampening=0.3",
            ", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1",
            ", lr=0.05, momentum=0.5, maximize=True",
            "",
        ),
        "Adam": (
            "",
            ", lr=0.1",
            ", lr=0.1, weight_decay=0.1",
            ", lr=0.1, amsgrad=True, betas=(0.5, 0.6)",
        ),
        "AdamW": (
            "",
            ", lr=0.1",
            ", lr=0.1, weight_decay=0.3, amsgrad=True",
            ", lr=0.1, eps=0.1, maximize=True",
        ),
        "RMSprop": (
            "",
            ", lr=0.05, momentum=0.5",
            ", lr=0.05, centered=True, weight_decay=0.1, alpha=0.8",
        ),
        "Adagrad": ("", ", lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5"),
        "Adadelta": ("", ", lr=0.5, rho=0.8, weight_decay=0.1"),
        "Adamax": ("", ", lr=0.1, weight_decay=0.1"),
        "NAdam": (
            "",
            ", lr=0.1, weight_decay=0.1, momentum_decay=0.1",
            ", lr=0.1, weight_decay=0.1, decoupled_weight_decay=True",
        ),
        "RAdam": (
            ", lr=0.1",
            ", lr=0.1, weight_decay=0.1",
            ", lr=0.1, weight_decay=0.1, decoupled_weight_decay=True",
        ),
    }.items()
    for options in variants
]
CASES += [
    trace("SGD([{'params': [p]}, {'params': q, 'lr': 0.2}], lr=0.01, momentum=0.9)"),
    trace("AdamW([{'params': [p], 'weight_decay': 0.0}, {'params': [q]}], lr=0.1)"),
    trace("SGD([p, q], lr=0.1, momentum=0.9)", group="o.param_groups[0]['lr'] = 0.1 / (k + 1)"),
    case(
        "p.grad = a\nn = nn.utils.clip_grad_norm_([p], 1.5)\nn, p.grad",
        p=f(3, 2),
        a=c(3, 2),
    ),
    case("p.grad = a\nnn.utils.clip_grad_norm_([p], 100.0)\np.grad", p=f(3, 2), a=c(3, 2)),
    case(
        "p.grad = a\nnn.utils.clip_grad_norm_([p], 1.0, norm_type=float('inf'))\np.grad",
        p=f(3),
        a=c(3),
    ),
    case("p.grad = a\nnn.utils.clip_grad_value_([p], 0.5)\np.grad", p=f(3, 2), a=c(3, 2)),
    case("nn.utils.parameters_to_vector([p, q])", p=f(3, 2), q=f(2)),
]

RATES = """
r = []
for k in range(14):
    r.append([g["lr"] for g in o.param_groups])
    o.step()
    s.step({})
r, s.get_last_lr()"""


def rates(text: str, argument: str = "", more: str = "") -> Case:
    """The rates of 14 steps under the schedule that `text` constructs from o."""
    groups = "optim.SGD([{'params': [p], 'lr': 0.3}, {'params': [q]}], lr=0.1, momentum=0.9)"
    code = f"L = optim.lr_scheduler\no = {groups}\n{more}s = L.{text}" + RATES.format(argument)
    return case(code, p=f(2), q=f(2))


CASES += [
    rates(text)
    for text in (
        "StepLR(o, 3, gamma=0.5)",
        "MultiStepLR(o, [2, 5, 5], gamma=0.1)",
        "ExponentialLR(o, 0.9)",
        "CosineAnnealingLR(o, 6, eta_min=0.01)",
        "CosineAnnealingWarmRestarts(o, 3, T_mult=2, eta_min=0.01)",
        "OneCycleLR(o, 0.5, total_steps=15)",
        "OneCycleLR(o, [0.5, 0.2], epochs=3, steps_per_epoch=5, pct_start=0.4, "
        "anneal_strategy='linear')",
        "OneCycleLR(o, 0.5, total_steps=15, three_phase=True, div_factor=10, final_div_factor=100)",
        "LinearLR(o, start_factor=0.2, end_factor=0.8, total_iters=4)",
        "ConstantLR(o, factor=0.5, total_iters=3)",
        "LambdaLR(o, lambda k: 0.9**k)",
        "LambdaLR(o, [lambda k: 0.9**k, lambda k: 1 / (k + 1)])",
        "PolynomialLR(o, total_iters=5, power=2.0)",
        "ChainedScheduler([L.ConstantLR(o, 0.1, 3), L.ExponentialLR(o, 0.9)])",
        "SequentialLR(o, [L.LinearLR(o, 0.1, total_iters=3), L.CosineAnnealingLR(o, 9)], [3])",
    )
]
CASES += [
    rates(f"ReduceLROnPlateau(o{options})", "[3, 2, 2, 2.5, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1][k]")
    for options in (
        ", patience=1",
        ", factor=0.5, patience=2, cooldown=1, min_lr=0.05",
        ", mode='max', patience=3",
    )
]
