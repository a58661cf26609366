"""Which of several processes this one is: under torchrun, in a SLURM job, or alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from littlecascade.errors import InputError


class Share(NamedTuple):
    """This process's number, from 0, among `world_size`."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read "2/8", the second of eight. Raises `InputError` for anything else.

        >>> Share.parse("2/8")
        Share(rank=1, world_size=8)
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise InputError(f"{text!r} is no share: write the second of eight as 2/8.")
        return cls(number - 1, count)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Share:
        """What torchrun (RANK, WORLD_SIZE) or SLURM says in the environment; alone where neither started the process.

        A SLURM array's jobs share the work, and so do the tasks that srun starts in each. A job's own script, and a
        shell inside an allocation, are one process, although SLURM states the number of tasks there, too.

        >>> Share.of({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
        Share(rank=0, world_size=1)
        """
        try:
            if {"RANK", "WORLD_SIZE"} <= environment.keys():
                return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
            share = cls()
            if "SLURM_ARRAY_TASK_ID" in environment:
                first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
                step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
                place = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
                share = cls(place, int(environment["SLURM_ARRAY_TASK_COUNT"]))
            if {"SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS"} <= environment.keys():
                tasks = int(environment["SLURM_NTASKS"])
                share = cls(share.rank * tasks + int(environment["SLURM_PROCID"]), share.world_size * tasks)
            return share
        except (KeyError, ValueError) as error:
            raise InputError(f"torchrun's or SLURM's variables in the environment can't be read: {error}.") from None
