"""What a benchmark reports, and the table of them all: Markdown to read, JSON to compute with."""

import dataclasses
import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import errors, versions, whole

JSON_FILE = "benchmarks.json"
MARKDOWN_FILE = "benchmarks.md"
BEGIN = "<!-- benchmarks: written by python -m benchmarks.run --quote -->"
END = "<!-- end of benchmarks -->"
PACKAGES = ("tensorflow", "tf-keras", "torch", "numpy", "gdal")


@dataclasses.dataclass(frozen=True)
class Options:
    """What every benchmark is told.

    Attributes:
        rounds: Alternating runs of each comparison.
        quick: Small sizes, to see that all works; the bounds are not judged.
        folder: Where scratch files may go; it is removed at the end.
        largest: Height and width of the largest scene that is fused, pixels.
    """

    rounds: int
    quick: bool
    folder: Path
    largest: int = 7000


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """What the median must reach."""

    value: float

    def holds(self, median: float) -> bool:
        """Whether a median does."""
        return median >= self.value

    def __str__(self) -> str:
        return f"≥ {self.value:g}"


@dataclasses.dataclass(frozen=True)
class AtMost:
    """What the median must not exceed."""

    value: float

    def holds(self, median: float) -> bool:
        """Whether a median does not."""
        return median <= self.value

    def __str__(self) -> str:
        return f"≤ {self.value:g}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        what: What was measured.
        unit: Its unit, "" for a share.
        values: One a round.
        bound: What the median is held to, where it is.
    """

    what: str
    unit: str
    values: tuple[float, ...]
    bound: AtLeast | AtMost | None = None

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        return None if self.bound is None else self.bound.holds(self.median)

    def __str__(self) -> str:
        bound = f" (must be {self.bound}: {'yes' if self.holds else 'no'})" if self.bound else ""
        return f"{self.what}: {_rounded(self.median)} {self.unit}".rstrip() + bound

    def to_json(self) -> dict[str, Any]:
        """All of it, every round's value included."""
        return {
            "what": self.what,
            "unit": self.unit,
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "values": list(self.values),
            "bound": str(self.bound) if self.bound else None,
            "holds": self.holds,
        }


@dataclasses.dataclass
class Report:
    """What one benchmark found: figures, and a sentence for each that could not be had."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(
        self,
        what: str,
        unit: str,
        values: Sequence[float],
        bound: AtLeast | AtMost | None = None,
    ) -> None:
        """Adds a figure."""
        self.rows.append(Row(what, unit, tuple(map(float, values)), bound))

    def note(self, sentence: str) -> None:
        """Says what was not measured, or what a figure does not say."""
        self.notes.append(sentence)


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, system, load."""
    model = platform.processor()
    with Path("/proc/cpuinfo").open() as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
    }


def to_json(
    reports: Mapping[str, Report], options: Options, before: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole result.

    Args:
        reports: By benchmark.
        options: What they were told.
        before: `machine` as it was before the first.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {**before, "load_after": machine()["load"]},
        "versions": versions.installed(PACKAGES),
        "rounds": options.rounds,
        "quick": options.quick,
        "benchmarks": {
            name: {"rows": [row.to_json() for row in report.rows], "notes": report.notes}
            for name, report in reports.items()
        },
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """The table of a result, with what it was measured on."""
    on = result["machine"]
    stated = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    lines = [
        f"{result['date']}, {on['processor']}, {on['cores']} cores, {on['memory_gib']:g} GiB; "
        f"load average {on['load']:g} before and {on['load_after']:g} after; {stated}; "
        f"{result['rounds']} alternating rounds"
        + ("; **quick**: small sizes, not for comparison." if result["quick"] else "."),
        "",
        "| measured | min | median | max | unit | must be | holds |",
        "| --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    notes = []
    for name, found in result["benchmarks"].items():
        if found["rows"]:
            lines.append(f"| **{name.replace('_', ' ')}** | | | | | | |")
        for row in found["rows"]:
            figures = " | ".join(_rounded(row[k]) for k in ("min", "median", "max"))
            holds = {True: "yes", False: "**no**", None: ""}[row["holds"]]
            lines.append(
                f"| {row['what']} | {figures} | {row['unit']} | {row['bound'] or ''} | {holds} |"
            )
        notes += [f"- {name.replace('_', ' ')}: {note}" for note in found["notes"]]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _rounded(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def save(result: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes both tables, each whole or not at all; returns where."""
    texts = {
        JSON_FILE: json.dumps(result, indent=2, ensure_ascii=False) + "\n",
        MARKDOWN_FILE: to_markdown(result),
    }
    for name, text in texts.items():
        whole.write_text(folder / name, text)
    return folder / MARKDOWN_FILE, folder / JSON_FILE


def check_quotable(document: Path) -> tuple[str, str]:
    """What stands before and after the quoted table.

    Raises:
        InputError: The document is missing, or has not both markers in order.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except OSError as error:
        raise errors.InputError(
            f"--quote: expected a document, found: {error.strerror}: {document}."
        ) from None
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise errors.InputError(
            f"--quote: expected the lines '{BEGIN}' and '{END}' in {document}, in this order, "
            f"found at most one of them."
        )
    return head, tail


def quote(result: Mapping[str, Any], document: Path) -> None:
    """Puts the table between the markers of a document; see `check_quotable`."""
    head, tail = check_quotable(document)
    whole.write_text(document, f"{head}{BEGIN}\n{to_markdown(result)}{END}{tail}")
