"""A SIMT emulator: the CUDA C++ text that NVRTC compiles, run thread by thread on a CPU.

`Module(text).get_function(name)(grid, block, args, shared_mem=0)` is launched like a RawKernel of
CuPy, on NumPy arrays. g++ compiles the text; every CUDA thread of a block is a fiber; blocks run
one after another, both in an order shuffled by a seed. A mistake raises a subclass of `Fault` that
names the kernel, block, thread and line.

With check=True (the default) every access to memory passes through the emulator: bounds, alignment,
races, reads of what was never written, copies not waited for, overflow of signed integers. With
check=False kernels run several times faster; barriers, collectives, deadlocks, launch limits and
writes next to an array are still checked, and a wild access still raises.

What is emulated: shared memory (227 KiB; 48 KiB of it static, and dynamic beyond 48 KiB only after
`max_dynamic_shared_size_bytes` is set, as in CUDA), barriers, warp collectives, atomics, fences,
half and bfloat16, and through warpops.cuh tensor cores, ldmatrix and cp.async.
Order of memory is CUDA's, read strictly: __syncthreads orders a block and __syncwarp a warp, an
atomic operation after __threadfence orders blocks; shuffles and votes order nothing, nor do atomic
operations within a block. A mask may name only lanes that take part, and every thread of a block
must reach each of its barriers, also where a GPU would not miss those that have returned. Arrays
that a kernel reaches through a table of addresses are made known by `with resident(...)`.

What differs from a GPU, so that results agree within rounding and not in every bit:
- a * b + c becomes an FMA where g++ sees one (-ffp-contract=fast), which nvcc may see otherwise;
- denormal floats count as zero, as under CuPy's -ftz=true; here doubles are flushed too;
- __expf and its like are glibc's accurate functions; tensor cores sum in double, rounding once;
- atomic operations on floats happen in the order of the shuffled fibers.

What is not emulated: time, bank conflicts, occupancy, registers, blocks that wait for each other,
wgmma, TMA, mbarriers, clusters, cooperative groups, textures, inline PTX outside warpops.cuh. A
passing kernel must still compile for the GPU (see gate.py) and be run on one.
"""

from simt.arrays import poison, resident
from simt.build import available
from simt.faults import (
    ArgumentFault,
    ArithmeticFault,
    AssertionFault,
    BarrierDivergence,
    BuildError,
    DataRace,
    Deadlock,
    Fault,
    LaunchFault,
    Misaligned,
    MissingWait,
    OutOfBounds,
    Uninitialised,
    WarpDivergence,
)
from simt.module import Kernel, Module
