"""How every entry point starts: absl's flags and logs, and readable ends.

An entry point imports nothing heavy at module level, so that `--help` answers at once:

    def main(argv):
        from stfnet_tf import fusion  # TensorFlow loads here
        ...

    def cli():
        entry.run(main)
"""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from data_prep import errors


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` under absl; an `InputError` becomes one sentence and exit code 2.

    Args:
        main: Takes the arguments left over after the flags; returns an exit code or None.
    """
    # TensorFlow's C++ log is for its developers; a user who wants it sets the variable.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

    def guarded(argv: Sequence[str]) -> int | None:
        logging.use_absl_handler()
        logging.set_verbosity(logging.get_verbosity())
        try:
            if len(argv) > 1:
                raise errors.InputError(
                    f"arguments are flags, --name=value; found '{argv[1]}' (--help lists them)."
                )
            return main(argv)
        except errors.InputError as error:
            print(f"Error: {error}", file=sys.stderr)
            return errors.EXIT_BAD_INPUT

    # --help lists the flags of the module that it takes for the program: a console script is not.
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(guarded)
