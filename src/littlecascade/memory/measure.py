"""How much memory there is, and how much this process takes."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, or that the machine could free for this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def give_back() -> None:
    """Return to the machine what was freed. Of the C libraries, glibc keeps much of it without being asked."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def peak_rss() -> int:
    """The most bytes that this process has had in physical memory at once, so far."""
    if sys.platform == "linux":
        # Not getrusage: what it says of a process includes what the one that started it took.
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    if sys.platform == "win32":
        return _peak_working_set()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _peak_working_set() -> int:
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *((f"size_{number}", ctypes.c_size_t) for number in range(8)),  # the first is PeakWorkingSetSize
        )

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel = ctypes.WinDLL("kernel32")
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return counters.size_0
