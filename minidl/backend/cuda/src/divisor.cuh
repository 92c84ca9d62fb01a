// Division by numbers that the host knows, which takes four instructions.
#pragma once

// n / d for 0 <= n < 2^31; the host makes m and s (Granlund and Montgomery 1994).
struct Divisor {
    int d;
    unsigned m;
    int s;
    __device__ int of(int n) const {
        const unsigned u = static_cast<unsigned>(n);
        const unsigned high = static_cast<unsigned>((static_cast<unsigned long long>(u) * m) >> 32);
        return static_cast<int>((high + u) >> s);
    }
};
