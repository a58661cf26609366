"""How a batch is divided: batch_size = processes x grad_accum_steps x micro-batch, and a micro-batch is 1 at least."""

from __future__ import annotations

from littlecascade.errors import InputError


def micro_batch(batch_size: int, accumulation: int, processes: int = 1) -> int:
    """Pictures in one forward pass of one process.

    Raises `InputError` where the batch does not divide, with the batch sizes below and above that do.

    >>> micro_batch(32, 4)
    8
    """
    pieces = processes * accumulation
    if batch_size % pieces == 0:
        return batch_size // pieces
    among = f"{processes} processes x grad_accum_steps {accumulation} = {pieces} micro-batches"
    down = batch_size - batch_size % pieces
    nearest = " and ".join(str(size) for size in (down, down + pieces) if size > 0)
    size, steps = fitted(batch_size, accumulation, processes)
    kept = "" if size == batch_size else f"batch_size {size} and "
    raise InputError(
        f"batch_size {batch_size} does not divide into "
        f"{among if processes > 1 else f'grad_accum_steps {accumulation} micro-batches'}; "
        f"the nearest that do: {nearest}. `--fit` takes {kept}grad_accum_steps {steps}."
    )


def fitted(batch_size: int, accumulation: int, processes: int = 1) -> tuple[int, int]:
    """The batch size and accumulation nearest to these that divide.

    What is learnt depends on the batch size, what memory it takes on the micro-batch. So the batch size stays, if the
    processes can share it, else it becomes the nearest that they can (of two, the larger); and no micro-batch becomes
    larger than was asked for, unless it would hold less than one picture.

    >>> fitted(8, 3), fitted(2, 3), fitted(6, 1, processes=4)
    ((8, 4), (2, 2), (8, 1))
    """
    batch_size = max(1, (2 * batch_size + processes) // (2 * processes)) * processes
    share = batch_size // processes
    return batch_size, next((steps for steps in range(accumulation, share + 1) if share % steps == 0), share)
