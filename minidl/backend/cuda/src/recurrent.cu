// One step of an LSTM, GRU or RNN after its product with W_hh, and one step of their gradients. A
// thread takes one unit of one row, `at` of a state's B H, so that neighbours read neighbours.
// Arrays of a step are row-major: states (B, H), gates (B, G H) with a row's gates side by side.
//   Forward: a, what the inputs give to the gates, and product = h W_hh^T (B, G H).
//   Backward: product (B, H) = what reaches h from later steps, dy (B, H) from y, if `given`.
// Computed in Sum<T>, as is what goes from step to step: c of an LSTM, h of a GRU, and their
// gradients. Bytes: each array once; with T of s bytes and sums of A bytes, a unit has, forward and
// backward, 14 s + 2 A and 12 s + 2 A (LSTM), 11 s + 2 A and 13 s + 2 A (GRU), 3 s and 4 s (RNN).
// grid (B H / 256).
#include "sums.cuh"

template <typename A>
__device__ A sigmoid(A x) {
    return A(1) / (A(1) + exp(-x));
}

// Place of a unit of a state in gates: those of its row, `many` of them, lie `hidden` apart.
__device__ inline long long gate_of(long long at, long long hidden, int many) {
    return at / hidden * many * hidden + at % hidden;
}

// gates: i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of a + product; c = f c + i g, kept in
// `state`; h = o tanh(c).
template <typename T>
__global__ void __launch_bounds__(256)
    lstm_step(const T* __restrict__ a, const T* __restrict__ product,
              typename Sum<T>::type* __restrict__ state, T* __restrict__ gates, T* __restrict__ c,
              T* __restrict__ h, long long hidden, long long count) {
    typedef typename Sum<T>::type A;
    const long long at = blockIdx.x * 256LL + threadIdx.x;
    if (at >= count) return;
    const long long first = gate_of(at, hidden, 4);
    A v[4];
    for (int k = 0; k < 4; k++) {  // all reads before the first write, which they might wait for
        const long long j = first + k * hidden;
        v[k] = static_cast<A>(a[j]) + static_cast<A>(product[j]);
    }
    for (int k = 0; k < 4; k++) {
        v[k] = k == 2 ? tanh(v[k]) : sigmoid(v[k]);
        gates[first + k * hidden] = static_cast<T>(v[k]);
    }
    const A now = v[1] * state[at] + v[0] * v[2];
    state[at] = now;
    c[at] = static_cast<T>(now);
    h[at] = static_cast<T>(v[3] * tanh(now));
}

// d = dy + product; e = dc + d o (1 - tanh(c)^2); dgates: e g i (1 - i), e c_before f (1 - f),
// e i (1 - g^2), d tanh(c) o (1 - o); dc = e f.
template <typename T>
__global__ void __launch_bounds__(256)
    lstm_step_grad(const T* __restrict__ dy, long long given, const T* __restrict__ product,
                   const T* __restrict__ gates, const T* __restrict__ before,
                   const T* __restrict__ c, typename Sum<T>::type* __restrict__ dc,
                   T* __restrict__ dgates, long long hidden, long long count) {
    typedef typename Sum<T>::type A;
    const long long at = blockIdx.x * 256LL + threadIdx.x;
    if (at >= count) return;
    const long long first = gate_of(at, hidden, 4);
    const A i = static_cast<A>(gates[first]), f = static_cast<A>(gates[first + hidden]);
    const A g = static_cast<A>(gates[first + 2 * hidden]);
    const A o = static_cast<A>(gates[first + 3 * hidden]), s = tanh(static_cast<A>(c[at]));
    const A d = static_cast<A>(product[at]) + (given ? static_cast<A>(dy[at]) : A(0));
    const A e = dc[at] + d * o * (A(1) - s * s);
    dgates[first] = static_cast<T>(e * g * i * (A(1) - i));
    dgates[first + hidden] = static_cast<T>(e * static_cast<A>(before[at]) * f * (A(1) - f));
    dgates[first + 2 * hidden] = static_cast<T>(e * i * (A(1) - g * g));
    dgates[first + 3 * hidden] = static_cast<T>(d * s * o * (A(1) - o));
    dc[at] = e * f;
}

// r, z = sigmoid of a + product; m = product + bias (H), if `biased`; n = tanh(a + r m);
// h = n + z (h - n), kept in `state`. gates (B, 4 H): r, z, n, m.
template <typename T>
__global__ void __launch_bounds__(256)
    gru_step(const T* __restrict__ a, const T* __restrict__ product, const T* __restrict__ bias,
             long long biased, typename Sum<T>::type* __restrict__ state, T* __restrict__ gates,
             T* __restrict__ h, long long hidden, long long count) {
    typedef typename Sum<T>::type A;
    const long long at = blockIdx.x * 256LL + threadIdx.x;
    if (at >= count) return;
    const long long first = gate_of(at, hidden, 4), from = gate_of(at, hidden, 3);
    A v[4] = {};
    if (biased) v[3] = static_cast<A>(bias[at % hidden]);
    for (int k = 0; k < 4; k++) {
        const long long j = from + k * hidden;
        if (k < 3) v[k] += static_cast<A>(a[j]);
        if (k != 2) v[k] += static_cast<A>(product[k < 3 ? j : j - hidden]);
        if (k < 2) v[k] = sigmoid(v[k]);
    }
    v[2] = tanh(v[2] + v[0] * v[3]);
    for (int k = 0; k < 4; k++) gates[first + k * hidden] = static_cast<T>(v[k]);
    const A now = v[2] + v[1] * (state[at] - v[2]);
    state[at] = now;
    h[at] = static_cast<T>(now);
}

// d = dy + product + dh; dn = d (1 - z) (1 - n^2); da (B, 3 H): dn m r (1 - r),
// d (h_before - n) z (1 - z), dn; dstate (B, 3 H) likewise, with r dn the last; dh = d z.
template <typename T>
__global__ void __launch_bounds__(256)
    gru_step_grad(const T* __restrict__ dy, long long given, const T* __restrict__ product,
                  const T* __restrict__ gates, const T* __restrict__ before,
                  typename Sum<T>::type* __restrict__ dh, T* __restrict__ da,
                  T* __restrict__ dstate, long long hidden, long long count) {
    typedef typename Sum<T>::type A;
    const long long at = blockIdx.x * 256LL + threadIdx.x;
    if (at >= count) return;
    const long long first = gate_of(at, hidden, 4), to = gate_of(at, hidden, 3);
    const A r = static_cast<A>(gates[first]), z = static_cast<A>(gates[first + hidden]);
    const A n = static_cast<A>(gates[first + 2 * hidden]);
    const A m = static_cast<A>(gates[first + 3 * hidden]);
    const A d = dh[at] + static_cast<A>(product[at]) + (given ? static_cast<A>(dy[at]) : A(0));
    const A dn = d * (A(1) - z) * (A(1) - n * n);
    const A dz = d * (static_cast<A>(before[at]) - n) * z * (A(1) - z);
    da[to] = dstate[to] = static_cast<T>(dn * m * r * (A(1) - r));
    da[to + hidden] = dstate[to + hidden] = static_cast<T>(dz);
    da[to + 2 * hidden] = static_cast<T>(dn);
    dstate[to + 2 * hidden] = static_cast<T>(dn * r);
    dh[at] = d * z;
}

// h = tanh of a + product, or its relu, which keeps NaN.
template <typename T>
__global__ void __launch_bounds__(256)
    rnn_step(const T* __restrict__ a, const T* __restrict__ product, T* __restrict__ h,
             long long relu, long long count) {
    typedef typename Sum<T>::type A;
    const long long at = blockIdx.x * 256LL + threadIdx.x;
    if (at >= count) return;
    const A v = static_cast<A>(a[at]) + static_cast<A>(product[at]);
    h[at] = static_cast<T>(!relu ? tanh(v) : v <= A(0) ? A(0) : v);
}

// dgates = (dy + product) (1 - h^2), or where h > 0.
template <typename T>
__global__ void __launch_bounds__(256)
    rnn_step_grad(const T* __restrict__ dy, long long given, const T* __restrict__ product,
                  const T* __restrict__ h, T* __restrict__ dgates, long long relu,
                  long long count) {
    typedef typename Sum<T>::type A;
    const long long at = blockIdx.x * 256LL + threadIdx.x;
    if (at >= count) return;
    const A v = static_cast<A>(h[at]);
    const A d = static_cast<A>(product[at]) + (given ? static_cast<A>(dy[at]) : A(0));
    dgates[at] = static_cast<T>(d * (!relu ? A(1) - v * v : v <= A(0) ? A(0) : A(1)));
}
