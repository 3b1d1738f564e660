"""Start-up times: each command in new processes, as the median of several runs.

    python benchmarks/startup.py [--model everyday] [--runs 5] [--json]

Loading a model includes importing torch, whose time is printed as a lower bound. Processes exit at once, without Python's clean-up.
The first run of each is not counted. It writes bytecode, as an installation does, because compiling the package takes a tenth of the time.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

FROM_COMMAND_LINE = "import sys; from unsilent.cli.main import run; run(['--help'])"
AT_ONCE = "; import os; os._exit(0)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    programs = {
        "nothing": "pass",
        "import unsilent": "import unsilent",
        "unsilent --help": FROM_COMMAND_LINE,
        "import torch": "import torch",
        "import unsilent.pipeline": "import unsilent.pipeline",
        f"load {options.model}": f"import unsilent; unsilent.load({options.model!r}, device='cpu')",
    }
    times = {name: [] for name in programs}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(options.runs + 1):
        for name, program in programs.items():  # alternately, so that all have the same load
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program + AT_ONCE], check=True, capture_output=True, env=environment)
            times[name].append(time.perf_counter() - started)
    found = {name: round(median(seconds[1:]), 3) for name, seconds in times.items()}
    if options.json:
        print(json.dumps({"runs": options.runs, "seconds": found}))
        return
    for name, seconds in found.items():
        print(f"{name:26} {seconds:6.2f} s")


if __name__ == "__main__":
    main()
