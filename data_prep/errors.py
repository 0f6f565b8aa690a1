"""The one exception that means "the input is wrong", as opposed to "the program is"."""


class InputError(Exception):
    """Bad input: one sentence that names the file or flag, what was expected and what was found.

    Entry points print the sentence without a traceback and exit with `EXIT_BAD_INPUT`.
    """


def reason(error: BaseException) -> str:
    """What an exception says, as the end of a sentence that names the file already: one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


EXIT_BAD_INPUT = 2
