"""Makes positions.npz: positions of Vision Transformers as timm scales them to other grids.

    python tests/golden/make_positions.py      # needs torch and timm; the tests do not

Each case "N to M" has the tables NAME/from (1, 1 + N², D) and NAME/to (1, 1 + M², D). The committed
values were made with PyTorch 2.13 and timm 1.0.31 on a CPU, in float32 (timm's own choice).
"""

from pathlib import Path

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed

SIDES = ((14, 24), (14, 8), (14, 7), (7, 14), (3, 5), (4, 1), (1, 3), (24, 14), (5, 2))


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(9)
    out = {}
    for n, m in SIDES:
        table = rng.normal(size=(1, 1 + n * n, 2)).astype(np.float32)
        moved = resample_abs_pos_embed(torch.tensor(table), [m, m], num_prefix_tokens=1)
        out |= {f"{n} to {m}/from": table, f"{n} to {m}/to": moved.numpy()}
    np.savez_compressed(Path(__file__).with_name("positions.npz"), **out)


if __name__ == "__main__":
    main()
