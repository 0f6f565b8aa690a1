"""How long a user waits for help."""

import subprocess
import sys

from benchmarks import measure
from benchmarks.table import AtMost, Options, Report

PROGRAMS = ("stfnet_tf.train", "stfnet_tf.fuse", "data_prep.inspect")


def run(options: Options) -> Report:
    """`--help` of three programs."""

    def help_of(program: str) -> None:
        # absl ends --help with code 1.
        done = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True)
        if b"--" not in done.stdout:
            raise RuntimeError(f"{program} --help: {done.stderr.decode()[-500:]}")

    seconds = measure.alternate(
        {program: lambda program=program: help_of(program) for program in PROGRAMS},  # type: ignore[misc]
        options.rounds,
    )
    report = Report()
    for program, taken in seconds.items():
        report.add(f"python -m {program} --help", "s", taken, AtMost(1.0))
    return report
