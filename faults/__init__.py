"""Breaks what the programs read and the programs themselves, and looks at how they end.

    python -m faults.run

makes a small data set, runs every program on it, then runs them again on hundreds of damaged copies
and through kills, signals, full disks and rivals. Each end is judged: a sentence, a recovery or the
same result is well; a traceback, a wrong result without a sign, half a file under its final name, a
hang, or an earlier result that is lost is not.
"""
