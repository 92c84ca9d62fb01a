"""What can be wrong with a kernel or its launch, as exceptions."""


class BuildError(RuntimeError):
    """The kernels' text does not compile."""


class Fault(RuntimeError):
    """A kernel did what it must not; the message names kernel, block, thread and line."""


class LaunchFault(Fault, ValueError):
    """Grid, block or shared memory are beyond what a GPU can launch."""


class ArgumentFault(Fault, TypeError):
    """The arguments do not fit the kernel's parameters."""


class OutOfBounds(Fault):
    """An access outside every array and shared variable, or a write to a read-only array."""


class Misaligned(Fault):
    """An access at an address that is not a multiple of its type's alignment."""


class BarrierDivergence(Fault):
    """A __syncthreads that only some threads of the block reach."""


class WarpDivergence(Fault):
    """A warp collective whose lanes do not agree, or whose mask names lanes not there."""


class Deadlock(Fault):
    """No thread of the block can go on."""


class DataRace(Fault):
    """Two accesses to one address, one of them a write, with nothing to order them."""


class Uninitialised(Fault):
    """A read of shared memory or of a poisoned array that nothing has written."""


class MissingWait(Fault):
    """An access to shared memory for which a cp.async is under way."""


class ArithmeticFault(Fault):
    """Overflow of a signed integer, or a division by zero."""


class AssertionFault(Fault):
    """A failed assert, or __trap()."""


# By the numbers of the runtime (enum Fault in runtime.h).
BY_NUMBER: dict[int, type[Fault]] = {
    1: LaunchFault,
    2: OutOfBounds,
    3: Misaligned,
    4: BarrierDivergence,
    5: WarpDivergence,
    6: Deadlock,
    7: DataRace,
    8: Uninitialised,
    9: MissingWait,
    10: ArithmeticFault,
    11: AssertionFault,
}
