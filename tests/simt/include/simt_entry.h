// How the launcher finds a kernel: its parameter types, and a call with arguments from an array.
#pragma once

namespace simt {

// A parameter of a kernel as the launcher checks it. Kinds: p pointer, b bool, i integer, f float,
// h half, w bfloat16, s struct or vector, v void.
struct Parameter {
    char kind, pointee;
    unsigned short size, pointee_size;
};

struct Entry {
    void (*invoke)(void* const* arguments);
    int count;
    const Parameter* parameters;
    unsigned launch_bound;
    const void *image_begin, *image_end;
};

template <class T>
constexpr char kind_of() {
    using U = std::remove_cv_t<T>;
    if (std::is_void<U>::value) return 'v';
    if (std::is_pointer<U>::value) return 'p';
    if (std::is_same<U, bool>::value) return 'b';
    if (std::is_same<U, __half>::value) return 'h';
    if (std::is_same<U, __nv_bfloat16>::value) return 'w';
    if (std::is_floating_point<U>::value) return 'f';
    return std::is_integral<U>::value || std::is_enum<U>::value ? 'i' : 's';
}

template <class T>
constexpr unsigned short size_of() {
    if constexpr (std::is_void<T>::value)
        return 1;
    else
        return sizeof(T);
}

template <class T>
constexpr Parameter parameter() {
    using P = std::remove_pointer_t<T>;
    return {kind_of<T>(), std::is_pointer<T>::value ? kind_of<P>() : '-', size_of<T>(),
            size_of<P>()};
}

template <auto kernel>
struct Call;

template <class... A, void (*kernel)(A...)>
struct Call<kernel> {
    static constexpr Parameter parameters[] = {parameter<A>()..., {}};
    static constexpr int count = sizeof...(A);

    // Not instrumented: the arguments lie in the launcher's memory.
    template <size_t... i>
    __attribute__((no_sanitize("thread", "undefined"))) static void unpack(
        void* const* arguments, std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_reference_t<A>*>(arguments[i])...);
    }
    __attribute__((no_sanitize("thread", "undefined"))) static void invoke(void* const* arguments) {
        unpack(arguments, std::index_sequence_for<A...>{});
    }
};

// A __shared__ variable with a red zone behind it, where no access is allowed.
template <class Padded>
inline Padded& shared(const char* name, size_t bytes) {
    static SharedSite site;
    return *static_cast<Padded*>(
        shared_address(&site, name, bytes, sizeof(Padded), alignof(Padded)));
}

}  // namespace simt

extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start, _end;
#define SIMT_ENTRY(number, bound, ...)                                             \
    extern "C" __attribute__((visibility("default")))                              \
    const simt::Entry simt_entry_##number = {simt::Call<&__VA_ARGS__>::invoke,     \
                                             simt::Call<&__VA_ARGS__>::count,      \
                                             simt::Call<&__VA_ARGS__>::parameters, \
                                             bound,                                \
                                             &__ehdr_start,                        \
                                             &_end};
