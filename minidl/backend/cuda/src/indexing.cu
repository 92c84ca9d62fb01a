// x[key]: elements and rows picked, written and added at places that arrays of indices name.
//
// What is walked, the elements of x[key] or only the rows or columns of it, is one struct: up to 8
// axes with steps in x and in v, and up to 8 arrays of indices. Where places repeat, they are
// sorted first (order.cu), so that one thread meets all that belongs to one element of x.
#include "packs.cuh"
#include "sums.cuh"

constexpr long long NOWHERE = 0x7fffffffffffffffLL;

struct Index {
    const long long* at;
    unsigned long long* bad;  // the largest value, seen as unsigned, out of range; or null
    long long size, step;     // of x's axis that it walks
    long long lowest, skip;   // the least value; one that names no place
    long long walk[8];        // steps in `at` along the axes
};

struct Walk {
    long long rank, arrays;
    long long size[8], x[8], v[8];  // of the axes, the slowest first: length, steps in x and in v
    Index index[8];
};

struct Place {
    long long x, v;
    long long at[8];  // along the axes
};

// The places in x and v of the i-th thing walked, without the indices' part.
__device__ inline Place place_of(const Walk& walk, long long i) {
    Place place = {0, 0};
#pragma unroll
    for (int a = 7; a >= 0; a--) {
        place.at[a] = 0;
        if (a < walk.rank) {
            place.at[a] = a ? i % walk.size[a] : i;
            i = a ? i / walk.size[a] : i;
            place.x += place.at[a] * walk.x[a];
            place.v += place.at[a] * walk.v[a];
        }
    }
    return place;
}

// The place in x of the i-th thing walked; NOWHERE where an index is out of range.
__device__ inline long long indexed(const Walk& walk, long long i) {
    const Place place = place_of(walk, i);
    long long sum = place.x;
    bool inside = true;
    for (int k = 0; k < walk.arrays; k++) {
        const Index& index = walk.index[k];
        long long j = 0;
#pragma unroll
        for (int a = 0; a < 8; a++) j += place.at[a] * index.walk[a];
        const long long given = index.at[j], value = given < 0 ? given + index.size : given;
        const bool fits = given >= index.lowest && given < index.size;
        if (!fits && index.bad) atomicMax(index.bad, static_cast<unsigned long long>(given));
        inside = inside && fits && given != index.skip;
        if (inside) sum += value * index.step;
    }
    return inside ? sum : NOWHERE;
}

// y = x[key], 0 where an index is out of range. A thread: one element of y. Bytes: y, as much of
// x, and each index for every element it picks, through the caches. grid (count / 256).
template <typename T>
__global__ void __launch_bounds__(256)
    pick(const T* __restrict__ x, T* __restrict__ y, const Walk walk, long long count) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i >= count) return;
    const long long place = indexed(walk, i);
    y[i] = place == NOWHERE ? T(0) : x[place];
}

// Where each row of x[key] starts in x. A thread: one row. grid (count / 256).
extern "C" __global__ void __launch_bounds__(256)
    find_places(long long* __restrict__ place, const Walk rows, long long count) {
    const long long i = blockIdx.x * 256LL + threadIdx.x;
    if (i < count) place[i] = indexed(rows, i);
}

// x[place + column] = v of the last row of each place; `order` sorts the places. A thread: one
// element of v. Bytes: places and order for every row, v and x once. grid (count * n / 256).
template <typename T>
__global__ void __launch_bounds__(256)
    put(T* __restrict__ x, const T* __restrict__ v, const long long* __restrict__ place,
        const long long* __restrict__ order, const Walk rows, const Walk columns, long long count,
        long long n) {
    const long long t = blockIdx.x * 256LL + threadIdx.x, i = t / n;
    if (i >= count) return;
    const long long row = order[i], to = place[row];
    if (to == NOWHERE || (i + 1 < count && place[order[i + 1]] == to)) return;
    const Place column = place_of(columns, t - i * n);
    x[to + column.x] = v[place_of(rows, row).v + column.v];
}

// x[place + column] += the sum of the rows of v at each place, whose order sorts the places.
// Pieces of 32 rows each: a thread adds up WIDE neighbouring columns of one piece, run by run of
// equal places; four rows are asked for at once. A run within the piece goes to x; what the piece
// shares with its neighbours goes to the next level's rows: two a piece, of the run that began
// before it and of the one that goes on behind it (if that is one run, the second is 0). On the
// first level rows are v's, in float for half types, double for double, long long for integers,
// behind it dense sums that are in order. Threads of a warp read columns side by side. WIDE > 1 is
// for dense rows of x and v that start at multiples of such packs. fresh: x is 0, and need not be
// read. Bytes: v once, x once or twice, 2 / 32 of v a level. grid (pieces * n / WIDE / 256).
// Without the bound of 2 blocks, registers spill.
template <typename T, typename V, bool FIRST, int WIDE>
__global__ void __launch_bounds__(256, 2)
    add_runs(T* __restrict__ x, const V* __restrict__ v, const long long* __restrict__ place,
             const long long* __restrict__ order, const Walk rows, const Walk columns,
             typename Sum<T>::type* __restrict__ shared, long long* __restrict__ next,
             long long count, long long n, long long fresh) {
    typedef typename Sum<T>::type A;
    const long long t = blockIdx.x * 256LL + threadIdx.x, piece = t / (n / WIDE);
    const long long j = (t - piece * (n / WIDE)) * WIDE;
    const long long start = piece * 32, stop = start + 32 < count ? start + 32 : count;
    if (start >= count) return;
    const auto at = [&](long long i) { return place[FIRST ? order[i] : i]; };
    const Place column = place_of(columns, j);
    long long here = at(start), ends[2] = {NOWHERE, NOWHERE};
    Pack<A, WIDE> sum = {}, parts[2] = {};
    bool begun = start && at(start - 1) == here;  // the run, in another piece
    for (long long first = start; first < stop; first += 4) {
        long long own[5], following[4];
        Pack<V, WIDE> given[4];
#pragma unroll
        for (int k = 0; k < 5; k++) {
            const long long i = first + k < count ? first + k : count - 1;
            own[k] = FIRST ? order[i] : i;
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const long long row = FIRST ? place_of(rows, own[k]).v + column.v : own[k] * n + j;
            given[k] = load_pack<WIDE>(v + row);
            following[k] = first + k + 1 < count ? place[own[k + 1]] : NOWHERE;
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const long long i = first + k;
            if (i >= stop) break;
#pragma unroll
            for (int e = 0; e < WIDE; e++) sum.v[e] += static_cast<A>(given[k].v[e]);
            if (i + 1 < stop && following[k] == here) continue;
            const bool goes_on = i + 1 == stop && following[k] == here;
            if (here != NOWHERE && begun) {
                ends[0] = here;
                parts[0] = sum;
                if (goes_on) ends[1] = here;
            } else if (here != NOWHERE && goes_on) {
                ends[1] = here;
                parts[1] = sum;
            } else if (here != NOWHERE) {
                Pack<T, WIDE> to = {};
                if (!fresh) to = load_pack<WIDE>(x + here + column.x);
#pragma unroll
                for (int e = 0; e < WIDE; e++) {
                    to.v[e] = static_cast<T>(static_cast<A>(to.v[e]) + sum.v[e]);
                }
                store_pack(x + here + column.x, to);
            }
            here = following[k];
            sum = {};
            begun = false;
        }
    }
    if (count <= 32) return;  // the last level
#pragma unroll
    for (int e = 0; e < 2; e++) {
        store_pack(shared + (piece * 2 + e) * n + j, parts[e]);
        if (j == 0) next[piece * 2 + e] = ends[e];
    }
}
