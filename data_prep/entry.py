"""How every entry point starts: absl's flags and logs, and readable ends.

An entry point imports nothing heavy at module level, so that `--help` answers at once:

    def main(argv):
        from stfnet_tf import fusion  # TensorFlow loads here
        ...

    def cli():
        entry.run(main)

However a program is stopped — wrong input, a full disk, too little memory, Ctrl-C, SIGTERM — it
says so in one sentence; a traceback means that the program itself is wrong.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from data_prep import errors

# As shells count: 128 and the signal's number.
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
_STOPPED = "Stopped by {}; what was finished before is kept, and the same command starts again."
# The signals that have come, in their order.
_received: list[int] = []


class _Terminated(SystemExit):
    """SIGTERM, raised where the program is, so that it lets go of what it holds."""


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
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not one to be ignored
            signal.signal(signal.SIGINT, _interrupt)
        try:
            if len(argv) > 1:
                raise errors.InputError(
                    f"arguments are flags, --name=value; found '{argv[1]}' (--help lists them)."
                )
            return main(argv)
        except errors.InputError as error:
            return _say(f"Error: {error}", errors.EXIT_BAD_INPUT)
        except MemoryError as error:
            return _say(
                f"Error: expected more free memory, found none left ({error or 'MemoryError'}).",
                errors.EXIT_BAD_INPUT,
            )
        except OSError as error:
            if error.filename is None or error.strerror is None:
                raise
            return _say(
                f"Error: {os.fsdecode(error.filename)}: expected to use it, found: "
                f"{error.strerror}.",
                errors.EXIT_BAD_INPUT,
            )

    # --help lists the flags of the module that it takes for the program: a console script is not.
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        try:
            app.run(guarded, flags_parser=_parse)
        finally:
            # Where little was said, as by --help, it has not been written yet.
            if sys.stdout is not None:
                sys.stdout.flush()
    # Here, because they may come at any moment, on the way out as well.
    except KeyboardInterrupt:
        sys.exit(_stopped(signal.SIGINT))
    except _Terminated:
        sys.exit(_stopped(signal.SIGTERM))
    except BrokenPipeError:
        # Nobody reads on, as in "… | head"; the interpreter would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except Exception:
        # Code in C that is interrupted may make another error of it.
        if not _received:
            raise
        sys.exit(_stopped(_received[-1]))


def check_names(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuses names that a flag does not know.

    Raises:
        InputError: There is one.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise errors.InputError(
            f"--{flag}: expected some of {', '.join(known)}; found '{unknown[0]}'."
        )


def _say(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _stopped(number: int) -> int:
    return _say(_STOPPED.format("Ctrl-C" if number == signal.SIGINT else "SIGTERM"), 128 + number)


def _interrupt(number: int, _: Any) -> NoReturn:
    _received_now(number)
    raise KeyboardInterrupt


def _terminate(number: int, _: Any) -> NoReturn:
    _received_now(number)
    raise _Terminated(128 + number)


def _received_now(number: int) -> None:
    _received.append(number)
    # Code in C that is interrupted may print an error of its own before it hands on another.
    sys.excepthook = lambda *_: None


def _parse(argv: list[str]) -> list[str]:
    """Absl's own parser, whose errors are sentences but for a flag file that is no text."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sentence = f"{str(error).removeprefix('ERROR:: ').rstrip('.')} (--help lists all flags)."
    except UnicodeDecodeError as error:
        named = [k.partition("=")[2] for k in argv if k.lstrip("-").startswith("flagfile=")]
        sentence = f"--flagfile={', '.join(named)}: expected a text file of flags, found: {error}."
    sys.exit(_say(f"Error: {sentence}", errors.EXIT_BAD_INPUT))
