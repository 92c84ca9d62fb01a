// Fibers: one for each CUDA thread of a block, the barrier between them, the launch of a grid.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <utility>
#include <xmmintrin.h>

#include "runtime.h"

namespace simt {

Thread* self;
Block block;
Fiber fibers[kMaxThreads];
Warp warps[kMaxThreads / kLanes];
unsigned threads;
uint32_t epoch, block_base, block_number;
const Launch* launch;
uint64_t launches;
Report report;

static char* stacks;
static void* main_stack_pointer;
static uint16_t ready[2 * kMaxThreads];  // a ring of fibers that can go on
static unsigned ready_head, ready_tail, returned, at_barrier;
static const Fiber* waiting;  // the first thread at the barrier
static int votes, barrier_result;
static uint16_t order[kMaxThreads];
static uint64_t random_state;

// Saves the callee's registers and goes on from another stack.
__attribute__((naked, noinline)) static void switch_stack(void** /*save*/, void* /*to*/) {
    asm volatile(
        "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15;"
        "mov %rsp, (%rdi); mov %rsi, %rsp;"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}

static uint64_t random_bits() {  // splitmix64
    uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

template <class T>
static void shuffle_order(T* values, size_t count) {
    for (size_t i = count; i > 1; i--) std::swap(values[i - 1], values[random_bits() % i]);
}

void make_ready(unsigned fiber) {
    ready[ready_tail++ % (2 * kMaxThreads)] = static_cast<uint16_t>(fiber);
}

void run_others() {
    Fiber* me = current();
    if (ready_head == ready_tail) {  // every thread waits or has returned
        switch_stack(&me->stack_pointer, main_stack_pointer);
        return;
    }
    Fiber* next = &fibers[ready[ready_head++ % (2 * kMaxThreads)]];
    self = next;
    if (next != me) switch_stack(&me->stack_pointer, next->stack_pointer);
}

void yield() {
    make_ready(current()->number);
    run_others();
}

bool is_stack(uintptr_t address) {
    return address - reinterpret_cast<uintptr_t>(stacks) < kStackBytes * kMaxThreads;
}

// ---- Faults end the launch: the fibers are abandoned where they are.

[[noreturn]] static void abandon() {
    void* unused;
    switch_stack(&unused, main_stack_pointer);
    abort();
}

static void write_report(Fault kind, const Fiber* thread, Place at, const char* format,
                         va_list values) {
    if (report.fault) return;
    report.fault = kind;
    report.block = block.index;
    report.has_thread = thread != nullptr;
    if (thread) report.thread = thread->index;
    report.place[0] = 0;
    if (at.file) snprintf(report.place, sizeof report.place, "%s:%d", at.file, at.line);
    vsnprintf(report.message, sizeof report.message, format, values);
}

void report_fault(Fault kind, const char* format, ...) {
    va_list values;
    va_start(values, format);
    write_report(kind, nullptr, {}, format, values);
    va_end(values);
}

#define SIMT_REPORT_AND_LEAVE(kind, thread, at)     \
    va_list values;                                 \
    va_start(values, format);                       \
    write_report(kind, thread, at, format, values); \
    va_end(values);                                 \
    abandon()

void fault(Fault kind, const char* format, ...) { SIMT_REPORT_AND_LEAVE(kind, current(), Place{}); }

void fault_at(Place at, Fault kind, const char* format, ...) {
    SIMT_REPORT_AND_LEAVE(kind, current(), at);
}

void fault_of(const Fiber* thread, Fault kind, uint64_t code, uint64_t other_code, Place at,
              const char* format, ...) {
    report.code = code;
    report.other_code = other_code;
    SIMT_REPORT_AND_LEAVE(kind, thread, at);
}

void fail(Place at, const char* message) { fault_at(at, kAssertion, "%s", message); }

// A signal in a kernel: the handler makes the fiber go on in signal_fault instead.
static int signal_number;
static uintptr_t signal_address;

[[noreturn]] static void signal_fault() {
    if (signal_number == SIGXCPU) {
        fault(kDeadlock, "runs for more than %u s: an endless loop?", launch->seconds);
    }
    if (signal_number == SIGFPE) fault(kArithmetic, "integer division by zero");
    if (signal_address - reinterpret_cast<uintptr_t>(stacks) < kStackBytes * kMaxThreads) {
        fault(kOutOfBounds, "stack overflow: local variables of more than %zu bytes", kStackBytes);
    }
    fault(kOutOfBounds, "memory fault near address %#zx: out of bounds, or a misaligned vector",
          signal_address);
}

static void handle_signal(int number, siginfo_t* info, void* context) {
    if (!self) {  // not in a kernel: end as without this handler
        signal(number, SIG_DFL);
        return;
    }
    auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    signal_number = number;
    signal_address = reinterpret_cast<uintptr_t>(info->si_addr);
    report.code = registers[REG_RIP];
    registers[REG_RIP] = reinterpret_cast<greg_t>(&signal_fault);
    auto top = reinterpret_cast<greg_t>(stacks) + kStackBytes * (current()->number + 1);
    registers[REG_RSP] = ((top - 64) & ~greg_t(63)) - 8;  // the fiber's frames are lost
}

// ---- The barrier

int barrier(Place at, int predicate) {
    Fiber* me = current();
    if (returned) {
        fault_at(at, kBarrierDivergence,
                 "__syncthreads reached by some threads only: %u of %u have returned", returned,
                 threads);
    }
    if (!at_barrier) waiting = me;
    const Place& other = waiting->place;
    if (at_barrier && (other.line != at.line || !same_text(other.file, at.file))) {
        const uint3& t = waiting->index;
        fault_at(at, kBarrierDivergence,
                 "__syncthreads reached by some threads only: thread (%u,%u,%u) waits at the one "
                 "of %s:%d",
                 t.x, t.y, t.z, other.file, other.line);
    }
    me->wait = kAtBarrier;
    me->place = at;
    votes += predicate != 0;
    if (++at_barrier == threads) {
        barrier_result = votes;
        votes = at_barrier = 0;
        epoch++;
        unsigned start = random_bits() % threads;
        for (unsigned i = 0; i < threads; i++) make_ready(order[(i + start) % threads]);
        for (unsigned i = 0; i < threads; i++) fibers[i].wait = kRunning;
    }
    run_others();
    return barrier_result;
}

[[noreturn]] static void run_fiber() {
    launch->invoke(launch->arguments);
    Fiber* me = current();
    if (at_barrier) {
        fault_at(waiting->place, kBarrierDivergence,
                 "__syncthreads reached by some threads only: this one returns while %u wait",
                 at_barrier);
    }
    leave_warp(me);
    me->wait = kReturned;
    returned++;
    run_others();
    abort();
}

// ---- Blocks

static void report_deadlock() {
    char message[800] = "";
    const Fiber* seen[4];
    unsigned kinds = 0, counts[4] = {};
    for (unsigned i = 0; i < threads; i++) {
        const Fiber& f = fibers[i];
        if (f.wait == kReturned) continue;
        unsigned k = 0;
        while (k < kinds && (seen[k]->place.line != f.place.line || seen[k]->wait != f.wait)) k++;
        if (k == 4) continue;
        if (k == kinds) seen[kinds++] = &f;
        counts[k]++;
    }
    for (unsigned k = 0; k < kinds; k++) {
        const Fiber& f = *seen[k];
        size_t used = strlen(message);
        snprintf(message + used, sizeof message - used,
                 "%s%u in %s at %s:%d, thread (%u,%u,%u) first", k ? "; " : "", counts[k],
                 f.wait == kAtBarrier ? "__syncthreads" : f.operation, f.place.file, f.place.line,
                 f.index.x, f.index.y, f.index.z);
    }
    report_fault(kDeadlock, "deadlock, no thread can go on: %s", message);
}

static void start_fiber(unsigned i) {
    Fiber& f = fibers[i];
    f.number = i;
    f.lane = i % kLanes;
    f.warp = i / kLanes;
    f.index = {i % block.size.x, i / block.size.x % block.size.y,
               i / (block.size.x * block.size.y)};
    f.wait = kRunning;
    f.fenced = f.fenced_before = 0;
    f.atomics = f.idle = f.group = 0;
    f.copies.clear();
    // Stacks start at different offsets, or they would share the same lines of the cache.
    char* top = stacks + kStackBytes * (i + 1) - 64 - i % 31 * 128;
    void** frame = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63));
    *--frame = nullptr;
    *--frame = reinterpret_cast<void*>(&run_fiber);
    frame -= 6;
    memset(frame, 0, 6 * sizeof *frame);
    f.stack_pointer = frame;
}

static void run_block() {
    epoch = 1;
    returned = at_barrier = ready_head = ready_tail = 0;
    votes = 0;
    for (unsigned i = 0; i < threads; i++) start_fiber(i);
    start_warps();
    start_shared();
    if (launch->checked) start_block_checks();
    shuffle_order(order, threads);
    for (unsigned i = 0; i < threads; i++) make_ready(order[i]);
    Fiber* first = &fibers[ready[ready_head++]];
    self = first;
    switch_stack(&main_stack_pointer, first->stack_pointer);
    if (!report.fault && returned < threads) report_deadlock();
}

uint3 block_index(uint32_t place) {
    return {place % block.grid.x, place / block.grid.x % block.grid.y,
            place / block.grid.x / block.grid.y};
}

static void run_blocks() {
    std::vector<uint32_t> blocks(size_t(block.grid.x) * block.grid.y * block.grid.z);
    std::iota(blocks.begin(), blocks.end(), 0u);
    shuffle_order(blocks.data(), blocks.size());
    for (uint32_t b : blocks) {
        block.index = block_index(b);
        block_number = block_base + b + 1;
        run_block();
        if (report.fault) break;
    }
    block_base += static_cast<uint32_t>(blocks.size());
}

static void make_stacks() {
    stacks = static_cast<char*>(mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) abort();
    for (unsigned i = 0; i < kMaxThreads; i++) mprotect(stacks + kStackBytes * i, 4096, PROT_NONE);
}

// Signals this thread when it has used the launch's processor time.
static timer_t start_timer() {
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGXCPU;
    event._sigev_un._tid = gettid();
    timer_t timer;
    itimerspec time = {};
    time.it_value.tv_sec = launch->seconds;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer)) abort();
    timer_settime(timer, 0, &time, nullptr);
    return timer;
}

// Runs all blocks with handlers for the signals of wild accesses, and floats flushed as by -ftz.
static void run_guarded() {
    static char signal_stack[64 << 10];
    stack_t own = {}, old_stack;
    own.ss_sp = signal_stack;
    own.ss_size = sizeof signal_stack;
    sigaltstack(&own, &old_stack);
    constexpr int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGXCPU}, count = 4;
    struct sigaction action = {}, old[count];
    action.sa_sigaction = handle_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < count; i++) sigaction(numbers[i], &action, &old[i]);
    timer_t timer = start_timer();
    unsigned control = _mm_getcsr();
    if (launch->flush_denormals) _mm_setcsr(control | 0x8040);  // FTZ, DAZ
    run_blocks();
    self = nullptr;
    _mm_setcsr(control);
    timer_delete(timer);
    for (int i = 0; i < count; i++) sigaction(numbers[i], &old[i], nullptr);
    sigaltstack(&old_stack, nullptr);
}

}  // namespace simt

// Runs a grid and says in the report whether and where it went wrong.
extern "C" __attribute__((visibility("default"))) int simt_launch(const simt::Launch* launch,
                                                                  simt::Report* report) {
    using namespace simt;
    if (!stacks) make_stacks();
    simt::launch = launch;
    simt::report = {};
    launches++;
    random_state = launch->seed;
    block.grid = dim3(launch->grid[0], launch->grid[1], launch->grid[2]);
    block.size = dim3(launch->block[0], launch->block[1], launch->block[2]);
    threads = block.size.x * block.size.y * block.size.z;
    std::iota(order, order + threads, uint16_t(0));
    if (start_arrays()) {
        if (launch->checked) start_checks();
        if (!simt::report.fault) run_guarded();
        if (launch->checked) finish_checks();
    }
    finish_arrays();
    *report = simt::report;
    return report->fault;
}
