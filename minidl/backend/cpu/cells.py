"""The recurrent cells' kernels: one step of an LSTM, GRU or RNN, forward and backward.

Arrays of a step are row-major: gates (B, G·H), states (B, H); weights as PyTorch keeps them, W_hh
(G·H, H), gates one below the other. A launch is split into tiles of batch rows by hidden columns.
An LSTM's gates may also lie tile after tile (tiled): the four gates of a tile's columns side by
side, the rows of its weights likewise, so that a tile makes one product, by panels. Forward, a tile
multiplies h[t-1] by its columns of W_hhᵀ for all gates, then applies the cell: pre-activations
never leave the cache. Backward, a tile makes its part of dh[t] = dy[t] + dgates[t+1] W_hh, then
dgates[t] from it, and adds its rows of dgates to a partial sum of the bias gradient that belongs to
the tile. Bytes moved beside the weights: 2G + 3 reals per hidden unit forward, 2G + 8 backward.
Products are summed in the arrays' own precision, biases' gradients in double.
"""

from minidl.backend.cpu.jit import R, at, device, exp, gemm, kernel, panel, tanh
from minidl.backend.cpu.linalg import dot
from minidl.backend.cpu.panel import BLOCK

ROWS = 64  # batch rows of a tile
DEEP = 256  # terms that a tile adds at a time: BLOCK columns of weights stay in L1


@device
def tile_at(tile, batch, hidden, tc):
    """First row, first column, rows and columns of a tile; tc divides hidden."""
    r0, j = tile // (hidden // tc) * ROWS, tile % (hidden // tc) * tc
    return r0, j, min(ROWS, batch - r0), tc


# One gate a loop: with four read and written in one, the compiler does not vectorise.
@device
def sigmoid_row(p, i, n):
    for q in range(i, i + n):
        p[q] = R(1) / (R(1) + exp(-p[q]))


@device
def tanh_row(p, i, n):
    for q in range(i, i + n):
        p[q] = tanh(p[q])


@device
def recur(tb, rows, cols, hidden, h, w, ldw, gate, j, out, ldo):
    """out (rows, cols) += h (rows, H) W[gate, j:j+cols]ᵀ; w is W_hh if tb, else its transpose."""
    first = gate * hidden + j
    pw = at(w, first * ldw if tb else first)
    if rows == 1 and tb:
        for q in range(cols):
            out[q] += dot(h, at(pw, q * ldw), hidden)
        return
    gemm(0, tb, rows, cols, hidden, R(1), h, hidden, pw, ldw, R(1), out, ldo)


@device
def add_panels(rows, cols, k, a, w, j, out, ldo):
    """out (rows, cols) += a (rows, k) times the columns of w from j on, panels (…, k, BLOCK)."""
    for p in range(0, k, DEEP):
        panel(rows, cols // BLOCK, min(DEEP, k - p), at(a, p), k, 1, at(w, j * k + p * BLOCK),
              k * BLOCK, BLOCK, out, ldo, True)  # fmt: skip


@device
def flow_back(rows, cols, hidden, gates, dgates, ldg, w, j, dh):
    """dh (rows, cols) += dgates (rows, gates·H) W_hh[:, j:j+cols]."""
    pw = at(w, j)
    gemm(0, 0, rows, cols, gates * hidden, R(1), dgates, ldg, pw, hidden, R(1), dh, hidden)


@device
def four_gates(row, hidden, start, step):
    """Offsets of a row's four gates: the first at start, the others step apart."""
    first = row * 4 * hidden + start
    return first, first + step, first + 2 * step, first + 3 * step


@device
def add_gates(y, j, x, i, gates, step, n):
    """Add a row's gates (n columns each, step apart) from x at i to y at j."""
    for start in range(0, gates * step, step):
        for q in range(start, start + n):
            y[j + q] += x[i + q]


@kernel("int int int int R* R* R* R* R* R*", fast=True)
def lstm_step(lo, hi, slot, batch, hidden, tc, tiled, w, h_in, c_in, gates, h, c):
    """gates += h_in W_hhᵀ; i, f, g, o = σ, σ, tanh, σ; c = f c_in + i g; h = o tanh(c).

    w: W_hh; if tiled, panels of its rows in the order of the tiles.
    """
    for tile in range(lo, hi):
        r0, j, rows, cols = tile_at(tile, batch, hidden, tc)
        before, step = at(h_in, r0 * hidden), tc if tiled else hidden
        if tiled:
            out = at(gates, (r0 * hidden + j) * 4)
            add_panels(rows, 4 * cols, hidden, before, w, 4 * j, out, 4 * hidden)
        else:
            for gate in range(4):
                out = at(gates, r0 * 4 * hidden + gate * hidden + j)
                recur(1, rows, cols, hidden, before, w, hidden, gate, j, out, 4 * hidden)
        for r in range(r0, r0 + rows):
            pi, pf, pg, po = four_gates(r, hidden, 4 * j if tiled else j, step)
            ph = r * hidden + j
            sigmoid_row(gates, pi, cols)
            sigmoid_row(gates, pf, cols)
            tanh_row(gates, pg, cols)
            sigmoid_row(gates, po, cols)
            for q in range(cols):
                new = gates[pf + q] * c_in[ph + q] + gates[pi + q] * gates[pg + q]
                c[ph + q] = new
                h[ph + q] = gates[po + q] * tanh(new)


@kernel("int int int int int R* R* R* R* R* R* R* R* R* f8*")
def lstm_step_grad(
    lo, hi, slot, batch, hidden, tc, first, tiled, w, dlater, dy, gates, c_in, c, dh, dc, dgates, db
):
    """dh += dy + dlater W_hh (not at the first step taken); dgates from dh and dc; dc *= f.

    w: W_hh; if tiled, panels of its columns, with the rows in the order of the tiles.
    """
    for tile in range(lo, hi):
        r0, j, rows, cols = tile_at(tile, batch, hidden, tc)
        block = at(dh, r0 * hidden + j)
        later = at(dlater, r0 * 4 * hidden)
        if first == 0 and tiled:
            add_panels(rows, cols, 4 * hidden, later, w, j, block, hidden)
        elif first == 0:
            flow_back(rows, cols, hidden, 4, later, 4 * hidden, w, j, block)
        step, start = (tc, 4 * j) if tiled else (hidden, j)
        pb = r0 // ROWS * 4 * hidden + start
        for r in range(r0, r0 + rows):
            pi, pf, pg, po = four_gates(r, hidden, start, step)
            ph = r * hidden + j
            for q in range(cols):
                s, o = tanh(c[ph + q]), gates[po + q]
                d = dh[ph + q] + dy[ph + q]
                dgates[po + q] = d * s * o * (R(1) - o)
                dh[ph + q] = d * o * (R(1) - s * s)
            for q in range(cols):
                f, e = gates[pf + q], dc[ph + q] + dh[ph + q]
                dgates[pf + q] = e * c_in[ph + q] * f * (R(1) - f)
                dh[ph + q] = e
                dc[ph + q] = e * f
            for q in range(cols):
                g, i = gates[pg + q], gates[pi + q]
                dgates[pi + q] = dh[ph + q] * g * i * (R(1) - i)
            for q in range(cols):
                g, i = gates[pg + q], gates[pi + q]
                dgates[pg + q] = dh[ph + q] * i * (R(1) - g * g)
                dh[ph + q] = R(0)
            add_gates(db, pb, dgates, pi, 4, step, cols)


@kernel("int int int int int R* R* R* R* R*")
def gru_step(lo, hi, slot, batch, hidden, tc, tb, ldw, w, bias, h_in, gates, h):
    """gates r, z, n, m: σ, σ, tanh(n + r m), m = h_in W_hnᵀ + bias; h = n + z (h_in - n)."""
    for tile in range(lo, hi):
        r0, j, rows, cols = tile_at(tile, batch, hidden, tc)
        for k in range(r0, r0 + rows):
            for q in range(j, j + cols):
                gates[(k * 4 + 3) * hidden + q] = bias[q]
        for gate in range(3):
            place = gate + gate // 2  # r, z where they are, the third product into m
            out = at(gates, r0 * 4 * hidden + place * hidden + j)
            recur(tb, rows, cols, hidden, at(h_in, r0 * hidden), w, ldw, gate, j, out, 4 * hidden)
        for k in range(r0, r0 + rows):
            pr, pz, pn, pm = four_gates(k, hidden, j, hidden)
            ph = k * hidden + j
            sigmoid_row(gates, pr, cols)
            sigmoid_row(gates, pz, cols)
            for q in range(cols):
                n = tanh(gates[pn + q] + gates[pr + q] * gates[pm + q])
                gates[pn + q] = n
                h[ph + q] = n + gates[pz + q] * (h_in[ph + q] - n)


@kernel("int int int int R* R* R* R* R* R* R* f8*")
def gru_step_grad(
    lo, hi, slot, batch, hidden, tc, first, w, dlater, dy, gates, h_in, dh, dgates, db
):
    """dh += dy + dlater[r, z, m] W_hh (not at the first step taken); dgates; dh *= z."""
    for tile in range(lo, hi):
        r0, j, rows, cols = tile_at(tile, batch, hidden, tc)
        block = at(dh, r0 * hidden + j)
        if first == 0:
            later = at(dlater, r0 * 4 * hidden)
            flow_back(rows, cols, hidden, 2, later, 4 * hidden, w, j, block)
            later = at(later, 3 * hidden)
            rest = at(w, 2 * hidden * hidden)
            flow_back(rows, cols, hidden, 1, later, 4 * hidden, rest, j, block)
        pb = r0 // ROWS * 4 * hidden + j
        for k in range(r0, r0 + rows):
            pr, pz, pn, pm = four_gates(k, hidden, j, hidden)
            ph = k * hidden + j
            for q in range(cols):
                r, z, n, m = gates[pr + q], gates[pz + q], gates[pn + q], gates[pm + q]
                d = dh[ph + q] + dy[ph + q]
                dn = d * (R(1) - z) * (R(1) - n * n)
                dgates[pr + q] = dn * m * r * (R(1) - r)
                dgates[pz + q] = d * (h_in[ph + q] - n) * z * (R(1) - z)
                dgates[pn + q] = dn
                dgates[pm + q] = dn * r
                dh[ph + q] = d * z
            add_gates(db, pb, dgates, pr, 4, hidden, cols)


@kernel("int int int int int R* int R* R*")
def rnn_step(lo, hi, slot, batch, hidden, tc, tb, ldw, w, relu, h_in, h):
    """h += h_in W_hhᵀ, then tanh or relu in place."""
    for tile in range(lo, hi):
        r0, j, rows, cols = tile_at(tile, batch, hidden, tc)
        out = at(h, r0 * hidden + j)
        recur(tb, rows, cols, hidden, at(h_in, r0 * hidden), w, ldw, 0, j, out, hidden)
        for r in range(r0, r0 + rows):
            ph = r * hidden + j
            if relu:
                for q in range(cols):
                    v = h[ph + q]
                    h[ph + q] = R(0) if v <= R(0) else v  # NaN stays
            else:
                tanh_row(h, ph, cols)


@kernel("int int int int int R* R* R* R* R* R* f8*")
def rnn_step_grad(lo, hi, slot, batch, hidden, tc, first, relu, w, dlater, dy, h, dh, dgates, db):
    """dh += dy + dlater W_hh (not at the first step taken); dgates = dh (1 - h²) or dh [h > 0]."""
    for tile in range(lo, hi):
        r0, j, rows, cols = tile_at(tile, batch, hidden, tc)
        if first == 0:
            block = at(dh, r0 * hidden + j)
            flow_back(rows, cols, hidden, 1, at(dlater, r0 * hidden), hidden, w, j, block)
        pb = r0 // ROWS * hidden + j
        for r in range(r0, r0 + rows):
            ph = r * hidden + j
            for q in range(cols):
                d, v = dh[ph + q] + dy[ph + q], h[ph + q]
                slope = (R(0) if v <= R(0) else R(1)) if relu else R(1) - v * v
                dh[ph + q] = R(0)
                dgates[ph + q] = d * slope
            add_gates(db, pb, dgates, ph, 1, hidden, cols)
