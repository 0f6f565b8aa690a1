"""Dates as archives and people write them: 2001-07-11, 20010711, or 2001192 by the day of year."""

import datetime
import re
from collections.abc import Iterator

from data_prep import errors

EXAMPLES = "2001-07-11, 20010711 or 2001192"
# A year, and month and day or the day of the year, with or without one separator between them.
_WRITTEN = (
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<s>[-_.]?)(?P<month>[01]\d)(?P=s)(?P<day>[0-3]\d)(?!\d)",
    r"(?<!\d)(?P<year>(?:19|20)\d\d)[-_.]?(?P<doy>[0-3]\d\d)(?!\d)",
)


def in_text(text: str) -> list[datetime.date]:
    """All different dates in a text such as a file's name, in order of time."""
    found = {date for pattern in _WRITTEN for date in _dates(re.finditer(pattern, text))}
    return sorted(found)


def parse(flag: str, text: str) -> datetime.date:
    """The date that a text states, and nothing beside it.

    Args:
        flag: The flag that takes it, for the sentence.
        text: The text.

    Raises:
        InputError: It states none.
    """
    whole = (re.fullmatch(pattern, text.strip()) for pattern in _WRITTEN)
    found = [*_dates(filter(None, whole))]
    if not found:
        raise errors.InputError(f"--{flag}: expected dates such as {EXAMPLES}, found '{text}'.")
    return found[0]


def _dates(matches: Iterator[re.Match[str]]) -> Iterator[datetime.date]:
    """The dates of those matches that have one in the calendar."""
    for match in matches:
        part = {k: int(v) for k, v in match.groupdict().items() if k != "s"}
        try:
            if "doy" in part:
                date = datetime.date(part["year"], 1, 1) + datetime.timedelta(part["doy"] - 1)
                if date.year == part["year"]:
                    yield date
            else:
                yield datetime.date(part["year"], part["month"], part["day"])
        except ValueError:
            continue
