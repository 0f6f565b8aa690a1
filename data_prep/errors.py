"""The one exception that means "the input is wrong", as opposed to "the program is"."""


class InputError(Exception):
    """Bad input: one sentence that names the file or flag, what was expected and what was found.

    Entry points print the sentence without a traceback and exit with `EXIT_BAD_INPUT`.
    """


EXIT_BAD_INPUT = 2
