// Random numbers by counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1,
// 2, 3", SC'11), key (k0, k1), counter (block, draw), four words of 32 bits a block. Element i
// depends on (key, draw, i) alone. A thread makes one block and writes what comes of it at once;
// results hold whole blocks. Bytes: the result, once. Nothing is summed. D is what a kernel is
// given for the number of the draw: the number, or where on the GPU it stands.

typedef unsigned long long Word64;

__device__ inline Word64 number_of(Word64 draw) { return draw; }
__device__ inline Word64 number_of(const Word64* draw) { return *draw; }

__device__ inline uint4 philox(Word64 block, Word64 key, Word64 draw) {
    const unsigned m0 = 0xD2511F53u, m1 = 0xCD9E8D57u, w0 = 0x9E3779B9u, w1 = 0xBB67AE85u;
    unsigned a = block, b = block >> 32, c = draw, d = draw >> 32, x = key, y = key >> 32;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned p = __umulhi(m0, a), q = __umulhi(m1, c);
        const unsigned left = q ^ b ^ x, right = p ^ d ^ y;
        b = m1 * c;
        d = m0 * a;
        a = left;
        c = right;
        x += w0;
        y += w1;
    }
    return make_uint4(a, b, c, d);
}

// ---- what is made of a block
// ---------------------------------------------------------------------

__device__ inline Word64 joined(unsigned high, unsigned low) {
    return static_cast<Word64>(high) << 32 | low;
}

struct Bits {
    typedef uint4 Pack;
    __device__ static Pack of(uint4 w, Word64) { return w; }
};

struct Words64 {
    typedef ulonglong2 Pack;
    __device__ static Pack of(uint4 w, Word64) {
        return make_ulonglong2(joined(w.x, w.y), joined(w.z, w.w));
    }
};

// Multiples of 2^-24 in [0, 1).
struct UniformFloat {
    typedef float4 Pack;
    __device__ static float one(unsigned w) { return static_cast<float>(w >> 8) * 0x1p-24f; }
    __device__ static Pack of(uint4 w, Word64) {
        return make_float4(one(w.x), one(w.y), one(w.z), one(w.w));
    }
};

// Multiples of 2^-53 in [0, 1).
struct UniformDouble {
    typedef double2 Pack;
    __device__ static double one(unsigned high, unsigned low) {
        return static_cast<double>(joined(high, low) >> 11) * 0x1p-53;
    }
    __device__ static Pack of(uint4 w, Word64) {
        return make_double2(one(w.x, w.y), one(w.z, w.w));
    }
};

// radius times (cos, sin) of an angle within a quarter of a turn about 0, turned by quarters.
template <typename T>
__device__ inline void turn(T radius, T cosine, T sine, unsigned quarter, T* x, T* y) {
    const T c = radius * cosine, s = radius * sine;
    *x = quarter & 1 ? s : c;
    *y = quarter & 1 ? c : s;
    if ((quarter + 1) & 2) *x = -*x;
    if (quarter & 2) *y = -*y;
}

// Two normals from two words (Box and Muller): radius from u, the angle is the second word as a
// share of a turn, split into its nearest quarter and the rest.
struct NormalFloat {
    typedef float4 Pack;
    __device__ static void two(unsigned u, unsigned share, float* x, float* y) {
        const float radius = sqrtf(-2.0f * logf(static_cast<float>((u >> 8) + 1) * 0x1p-24f));
        const unsigned quarter = (share + (1u << 29)) >> 30;  // may wrap to 0, as the angle does
        float sine, cosine;
        const int rest = static_cast<int>(share - (quarter << 30));
        sincospif(static_cast<float>(rest) * 0x1p-31f, &sine, &cosine);
        turn(radius, cosine, sine, quarter, x, y);
    }
    __device__ static Pack of(uint4 w, Word64) {
        Pack z;
        two(w.x, w.y, &z.x, &z.y);
        two(w.z, w.w, &z.z, &z.w);
        return z;
    }
};

struct NormalDouble {
    typedef double2 Pack;
    __device__ static Pack of(uint4 w, Word64) {
        const double u = static_cast<double>((joined(w.x, w.y) >> 11) + 1) * 0x1p-53;
        const Word64 share = joined(w.z, w.w);
        const unsigned quarter = (share + (1ull << 61)) >> 62;
        const long long rest = share - (static_cast<Word64>(quarter) << 62);
        const double angle = static_cast<double>(rest) * (6.283185307179586 * 0x1p-64);
        Pack z;
        turn(sqrt(-2.0 * log(u)), cos(angle), sin(angle), quarter, &z.x, &z.y);
        return z;
    }
};

// Whether each word is below the limit, at most 2^32.
struct Bernoulli {
    typedef uchar4 Pack;
    __device__ static Pack of(uint4 w, Word64 limit) {
        return make_uchar4(w.x < limit, w.y < limit, w.z < limit, w.w < limit);
    }
};

template <typename Make, typename D>
__global__ void __launch_bounds__(256) fill(typename Make::Pack* __restrict__ out, Word64 key,
                                            D draw, Word64 limit, long long blocks) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i < blocks) out[i] = Make::of(philox(i, key, number_of(draw)), limit);
}

// Row r of the result is made of `blocks` blocks from rows[r] 2^20 + first on. A thread makes one.
template <typename D>
__global__ void __launch_bounds__(256)
    fill_rows(const long long* __restrict__ rows, uint4* __restrict__ out, long long blocks,
              long long first, Word64 key, D draw, long long count) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const Word64 block = (static_cast<Word64>(rows[i / blocks]) << 20) + first + i % blocks;
    out[i] = philox(block, key, number_of(draw));
}

// ---- a mask in channels-last memory
// --------------------------------------------------------------

constexpr int CHANNELS = 32, PIXELS = 124;  // of a tile: 124 numbers in a row lie in 32 blocks

// mask (N, HW, C), the element of sample n, pixel p, channel c being number (n C + c) HW + p. A
// thread block makes a tile of up to 32 channels and `span` <= 124 pixels of one sample: a thread
// takes philox blocks of one channel, `quads` of which cover the tile's pixels, and puts their
// words' answers into shared memory, from where rows of channels are written. grid (samples x tiles
// of channels x tiles of pixels).
template <typename D>
__global__ void __launch_bounds__(256)
    bernoulli_last(unsigned char* __restrict__ mask, Word64 key, D draw, Word64 limit,
                   long long channels, long long pixels, long long span, long long quads) {
    __shared__ unsigned char tile[PIXELS][CHANNELS];
    const int lane = threadIdx.x % CHANNELS, row = threadIdx.x / CHANNELS;
    const int across = (pixels + span - 1) / span, down = (channels + CHANNELS - 1) / CHANNELS;
    const int rest = blockIdx.x / across;
    const long long n = rest / down, c = rest % down * static_cast<long long>(CHANNELS) + lane;
    const long long p0 = blockIdx.x % across * span;
    const int count = p0 + span < pixels ? span : pixels - p0;
    if (c < channels) {
        const long long start = (n * channels + c) * pixels + p0;
        for (int k = row; k < quads; k += 256 / CHANNELS) {
            const uint4 w = philox(start / 4 + k, key, number_of(draw));
            const unsigned words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int p = k * 4 + j - static_cast<int>(start % 4);
                if (p >= 0 && p < count) tile[p][lane] = words[j] < limit;
            }
        }
    }
    __syncthreads();
    if (c >= channels) return;
    for (int p = row; p < count; p += 256 / CHANNELS) {
        mask[(n * pixels + p0 + p) * channels + c] = tile[p][lane];
    }
}
