"""The tests marked ``numeric`` under several instruction sets: whatever rounds otherwise must agree all the same.

Steps in C are compiled for x86-64-v2, v3 and the processor's own set; torch takes its plain kernels and its own choice. Not every
combination: each setting occurs with others in one of three runs, and the processor's own set with torch's own choice is what
all tests run with. What this processor does not have is left out, with a line. Further arguments go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# The levels of x86-64 by what /proc/cpuinfo must list (the x86-64 psABI).
LEVELS = {
    "x86-64-v2": {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
}
# The C steps' instruction set (the processor's own where empty), torch's kernels (its own choice where empty). Tests are on one
# thread each, see tests/conftest.py.
RUNS = (("x86-64-v2", "default"), ("x86-64-v3", ""), ("", "default"))


def available() -> set[str]:
    """The flags of this processor; none where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def marked(root: Path) -> list[str]:
    """The files of tests in which something is marked: to collect the others takes longer than to run these."""
    files = sorted((root / "tests").rglob("test_*.py"))
    return [str(path) for path in files if "mark.numeric" in path.read_text(encoding="utf-8")]


def main(arguments: list[str]) -> int:
    """The exit code of the first run that fails, else 0."""
    there, root = available(), Path(__file__).resolve().parent.parent
    for march, kernels in RUNS:
        described = f"steps in C for {march or 'this processor'}, torch with {kernels or 'its own'} kernels"
        missing = LEVELS.get(march, set()) - there
        if missing:
            print(f"left out: {described}: this processor lacks {', '.join(sorted(missing))}", flush=True)
            continue
        print(f"{described}:", flush=True)
        chosen = {"IMPLICIT_BIAS_MARCH": march, "ATEN_CPU_CAPABILITY": kernels}
        environment = {key: value for key, value in os.environ.items() if key not in chosen}
        environment |= {key: value for key, value in chosen.items() if value}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "numeric", *marked(root), *arguments]
        code = subprocess.run(command, cwd=root, env=environment, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
