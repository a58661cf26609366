"""How long commands take that should be quick, and which packages beyond Python's own they import.

python benchmarks/startup.py [--runs 10], in the folder of the repository
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CONFIG = "configs/training/finetune_c_1b.yaml"
CASES = {
    "python alone": "pass",
    "import littlecascade": "import littlecascade",
    "littlecascade --help": "import littlecascade.cli.main as cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass",
    "littlecascade doctor": "import littlecascade.cli.main as cli\ncli.main(['doctor'])",
    "doctor CONFIG": f"import littlecascade.cli.main as cli\ncli.main(['doctor', {CONFIG!r}])",
    "train without its files": f"import littlecascade.cli.main as cli\ncli.main(['train', 'c', {CONFIG!r}])",
}
LIST_MODULES = "\nimport sys; print(*sorted(sys.modules), file=sys.stderr)"


def seconds(code: str, runs: int) -> list[float]:
    """Wall-clock seconds of each of `runs` fresh interpreters that run `code`, after one to warm the disk cache."""
    times = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return times[1:]


def modules(code: str) -> list[str]:
    """Names of the modules in a fresh interpreter after `code`."""
    command = [sys.executable, "-c", code + LIST_MODULES]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    before = set(modules("pass"))
    for name, code in CASES.items():
        times = seconds(code, runs)
        added = [module for module in modules(code) if module not in before]
        foreign = sorted({module.partition(".")[0] for module in added} - sys.stdlib_module_names)
        print(f"{name:24} median {statistics.median(times):.3f} s, least {min(times):.3f} s; {len(added)} modules more")
        print(f"{'':24} not Python's own: {', '.join(foreign) or 'none'}")
        print(f"{'':24} of which here: {', '.join(m for m in added if m.startswith('littlecascade')) or 'none'}")


if __name__ == "__main__":
    main()
