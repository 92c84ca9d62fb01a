"""The recurrent cells' kernels: one step of an LSTM, GRU or RNN, forward and backward.

Arrays of a step are row-major: gates (B, G·H), states (B, H); weights as PyTorch keeps them, W_hh
(G·H, H), gates one below the other, or packed for `panel`: its rows forward, its columns backward.
a is what the inputs give to the gates. A launch is split into tiles of batch rows by hidden
columns. Forward, a tile multiplies h[t-1] by its columns of W_hhᵀ for all gates, then applies the
cell: pre-activations never leave the cache. Backward, a tile makes its part of dh[t] = dy[t] +
dgates[t+1] W_hh, then dgates[t] from it. Bytes moved beside the weights: 3G + 3 reals per hidden
unit forward, 2G + 8 backward. Products are summed in the arrays' own precision.
"""

from minidl.backend.cpu.jit import R, at, device, dot, exp, gemm, kernel, move_rows, tanh
from minidl.backend.cpu.linalg import multiply
from minidl.backend.cpu.panel import BLOCK

ROWS = 64  # batch rows of a tile
PANELS, TURNED = 1, 2  # forms of weights
DEEP = 256  # terms that a tile adds at a time: BLOCK columns of weights stay in L1


@device
def tile_at(tile, batch, hidden, tc):
    """First row, first column and rows of a tile of tc columns; tc divides hidden."""
    r0, j = tile // (hidden // tc) * ROWS, tile % (hidden // tc) * tc
    return r0, j, min(ROWS, batch - r0)


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
def recur(form, rows, cols, hidden, gates, h, w, gate, j, out, ldo):
    """out (rows, cols) += h (rows, H) W_hh[gate, j:j+cols]ᵀ.

    w: W_hh, or in the form PANELS those of its rows, TURNED its transpose.
    """
    first = gate * hidden + j
    pw = at(w, first if form == TURNED else first * hidden)
    if form == PANELS:
        multiply(rows, cols // BLOCK, hidden, DEEP, h, hidden, pw, hidden * BLOCK, out, ldo, True)
    elif form == TURNED:
        gemm(0, 0, rows, cols, hidden, R(1), h, hidden, pw, gates * hidden, R(1), out, ldo)
    elif rows == 1:
        for q in range(cols):
            out[q] += dot(h, at(pw, q * hidden), hidden)
    else:
        gemm(0, 1, rows, cols, hidden, R(1), h, hidden, pw, hidden, R(1), out, ldo)


@device
def flow_back(form, rows, cols, hidden, gates, dgates, ldg, w, first, all_gates, j, dh):
    """dh (rows, cols) += dgates (rows, gates·H) W_hh[first…, j:j+cols].

    w: W_hh of all_gates, or panels of its columns.
    """
    if form == PANELS:
        pw, k = at(w, (j * all_gates + first * BLOCK) * hidden), gates * hidden
        apart = all_gates * hidden * BLOCK
        multiply(rows, cols // BLOCK, k, DEEP, dgates, ldg, pw, apart, dh, hidden, True)
    else:
        pw = at(w, first * hidden * hidden + j)
        gemm(0, 0, rows, cols, gates * hidden, R(1), dgates, ldg, pw, hidden, R(1), dh, hidden)


@device
def four_gates(row, hidden, j):
    """Offsets of column j of a row's four gates."""
    first = row * 4 * hidden + j
    return first, first + hidden, first + 2 * hidden, first + 3 * hidden


@kernel("int int int int R* R* R* R* R* R* R*", fast=True)
def lstm_step(tile, batch, hidden, tc, form, w, a, h_in, c_in, gates, h, c):
    """i, f, g, o = σ, σ, tanh, σ of a + h_in W_hhᵀ; c = f c_in + i g; h = o tanh(c)."""
    r0, j, rows = tile_at(tile, batch, hidden, tc)
    for gate in range(4):
        place = (r0 * 4 + gate) * hidden + j
        out = at(gates, place)
        move_rows(out, 4 * hidden, at(a, place), 4 * hidden, rows, tc)
        recur(form, rows, tc, hidden, 4, at(h_in, r0 * hidden), w, gate, j, out, 4 * hidden)
    for r in range(r0, r0 + rows):
        pi, pf, pg, po = four_gates(r, hidden, j)
        ph = r * hidden + j
        sigmoid_row(gates, pi, tc)
        sigmoid_row(gates, pf, tc)
        tanh_row(gates, pg, tc)
        sigmoid_row(gates, po, tc)
        for q in range(tc):
            new = gates[pf + q] * c_in[ph + q] + gates[pi + q] * gates[pg + q]
            c[ph + q] = new
            h[ph + q] = gates[po + q] * tanh(new)


@kernel("int int int int int R* R* R* R* R* R* R* R* R*", fast=True)
def lstm_step_grad(
    tile, batch, hidden, tc, first, form, w, dlater, dy, gates, c_in, c, dh, dc, dgates
):
    """dh += dy + dlater W_hh (not at the first step taken); dgates from dh and dc; dc *= f."""
    r0, j, rows = tile_at(tile, batch, hidden, tc)
    if first == 0:
        flow_back(form, rows, tc, hidden, 4, at(dlater, r0 * 4 * hidden), 4 * hidden, w, 0, 4,
                  j, at(dh, r0 * hidden + j))  # fmt: skip
    for r in range(r0, r0 + rows):
        pi, pf, pg, po = four_gates(r, hidden, j)
        ph = r * hidden + j
        for q in range(tc):
            s, o = tanh(c[ph + q]), gates[po + q]
            d = dh[ph + q] + dy[ph + q]
            dgates[po + q] = d * s * o * (R(1) - o)
            dh[ph + q] = d * o * (R(1) - s * s)
        for q in range(tc):
            f, e = gates[pf + q], dc[ph + q] + dh[ph + q]
            dgates[pf + q] = e * c_in[ph + q] * f * (R(1) - f)
            dh[ph + q] = e
            dc[ph + q] = e * f
        for q in range(tc):
            g, i = gates[pg + q], gates[pi + q]
            dgates[pi + q] = dh[ph + q] * g * i * (R(1) - i)
        for q in range(tc):
            g, i = gates[pg + q], gates[pi + q]
            dgates[pg + q] = dh[ph + q] * i * (R(1) - g * g)
            dh[ph + q] = R(0)


@kernel("int int int int R* R* R* R* R* R*")
def gru_step(tile, batch, hidden, tc, form, w, a, bias, h_in, gates, h):
    """gates r, z, n, m: σ, σ, tanh(n + r m), m = h_in W_hnᵀ + bias; h = n + z (h_in - n)."""
    r0, j, rows = tile_at(tile, batch, hidden, tc)
    for k in range(r0, r0 + rows):
        pr, pz, pn, pm = four_gates(k, hidden, j)
        move_rows(at(gates, pr), hidden, at(a, k * 3 * hidden + j), hidden, 3, tc)
    move_rows(at(gates, (r0 * 4 + 3) * hidden + j), 4 * hidden, at(bias, j), 0, rows, tc)
    for gate in range(3):
        place = gate + gate // 2  # r, z where they are, the third product into m
        out = at(gates, (r0 * 4 + place) * hidden + j)
        recur(form, rows, tc, hidden, 3, at(h_in, r0 * hidden), w, gate, j, out, 4 * hidden)
    for k in range(r0, r0 + rows):
        pr, pz, pn, pm = four_gates(k, hidden, j)
        ph = k * hidden + j
        sigmoid_row(gates, pr, tc)
        sigmoid_row(gates, pz, tc)
        for q in range(tc):
            n = tanh(gates[pn + q] + gates[pr + q] * gates[pm + q])
            gates[pn + q] = n
            h[ph + q] = n + gates[pz + q] * (h_in[ph + q] - n)


@kernel("int int int int int R* R* R* R* R* R* R*")
def gru_step_grad(tile, batch, hidden, tc, first, form, w, dlater, dy, gates, h_in, dh, dgates):
    """dh += dy + dlater[r, z, m] W_hh (not at the first step taken); dgates; dh *= z."""
    r0, j, rows = tile_at(tile, batch, hidden, tc)
    if first == 0:
        block, later = at(dh, r0 * hidden + j), at(dlater, r0 * 4 * hidden)
        flow_back(form, rows, tc, hidden, 2, later, 4 * hidden, w, 0, 3, j, block)
        later = at(later, 3 * hidden)
        flow_back(form, rows, tc, hidden, 1, later, 4 * hidden, w, 2, 3, j, block)
    for k in range(r0, r0 + rows):
        pr, pz, pn, pm = four_gates(k, hidden, j)
        ph = k * hidden + j
        for q in range(tc):
            r, z, n, m = gates[pr + q], gates[pz + q], gates[pn + q], gates[pm + q]
            d = dh[ph + q] + dy[ph + q]
            dn = d * (R(1) - z) * (R(1) - n * n)
            dgates[pr + q] = dn * m * r * (R(1) - r)
            dgates[pz + q] = d * (h_in[ph + q] - n) * z * (R(1) - z)
            dgates[pn + q] = dn
            dgates[pm + q] = dn * r
            dh[ph + q] = d * z


@kernel("int int int int int R* R* R* R*")
def rnn_step(tile, batch, hidden, tc, form, relu, w, a, h_in, h):
    """h = tanh or relu of a + h_in W_hhᵀ."""
    r0, j, rows = tile_at(tile, batch, hidden, tc)
    place = r0 * hidden + j
    move_rows(at(h, place), hidden, at(a, place), hidden, rows, tc)
    recur(form, rows, tc, hidden, 1, at(h_in, r0 * hidden), w, 0, j, at(h, place), hidden)
    for r in range(r0, r0 + rows):
        ph = r * hidden + j
        if relu:
            for q in range(tc):
                v = h[ph + q]
                h[ph + q] = R(0) if v <= R(0) else v  # NaN stays
        else:
            tanh_row(h, ph, tc)


@kernel("int int int int int int R* R* R* R* R* R*")
def rnn_step_grad(tile, batch, hidden, tc, first, form, relu, w, dlater, dy, h, dh,
                  dgates):  # fmt: skip
    """dh += dy + dlater W_hh (not at the first step taken); dgates = dh (1 - h²) or dh [h > 0]."""
    r0, j, rows = tile_at(tile, batch, hidden, tc)
    if first == 0:
        flow_back(form, rows, tc, hidden, 1, at(dlater, r0 * hidden), hidden, w, 0, 1, j,
                  at(dh, r0 * hidden + j))  # fmt: skip
    for r in range(r0, r0 + rows):
        ph = r * hidden + j
        for q in range(tc):
            d, v = dh[ph + q] + dy[ph + q], h[ph + q]
            slope = (R(0) if v <= R(0) else R(1)) if relu else R(1) - v * v
            dh[ph + q] = R(0)
            dgates[ph + q] = d * slope
