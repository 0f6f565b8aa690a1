"""Ways to damage a file or a folder; each is a function of the path and a seeded generator."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Generator = np.random.Generator
Damage = Callable[[Path, Generator], None]


def truncated(sixteenths: int) -> Damage:
    """Cuts a file off at a share of its length; 0 leaves it empty."""

    def apply(path: Path, _: Generator) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * sixteenths // 16])

    return apply


def _edited(edit: Callable[[np.ndarray, Generator], np.ndarray]) -> Damage:
    def apply(path: Path, rng: Generator) -> None:
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        path.write_bytes(edit(content, rng).tobytes())

    return apply


@_edited
def flipped_bit(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Turns over one bit."""
    content[rng.integers(len(content))] ^= np.uint8(1 << rng.integers(8))
    return content


@_edited
def flipped_byte(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Replaces one byte by another."""
    content[rng.integers(len(content))] ^= np.uint8(rng.integers(1, 256))
    return content


@_edited
def flipped_header(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Replaces one byte near the beginning."""
    content[rng.integers(min(len(content), 256))] ^= np.uint8(rng.integers(1, 256))
    return content


@_edited
def zeroed_block(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Zeroes a sixteenth somewhere."""
    length = max(len(content) // 16, 1)
    first = rng.integers(max(len(content) - length, 1))
    content[first : first + length] = 0
    return content


@_edited
def zeroed(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Zeroes all of it."""
    return content * np.uint8(0)


@_edited
def noise(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Replaces all of it by noise."""
    return rng.integers(0, 256, len(content)).astype(np.uint8)


@_edited
def swapped_halves(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Puts the second half first."""
    return np.roll(content, len(content) // 2)


@_edited
def longer(content: np.ndarray, rng: Generator) -> np.ndarray:
    """Appends noise."""
    return np.concatenate([content, rng.integers(0, 256, 64).astype(np.uint8)])


def missing(path: Path, _: Generator) -> None:
    """Removes it."""
    path.unlink()


def folder_instead(path: Path, _: Generator) -> None:
    """Puts a folder in its place."""
    path.unlink()
    path.mkdir()


def loop_instead(path: Path, _: Generator) -> None:
    """Puts a link to itself in its place."""
    path.unlink()
    path.symlink_to(path.name)


def forbidden(path: Path, _: Generator) -> None:
    """Takes all permissions away; for a user who is not root."""
    path.chmod(0)


def other_file(path: Path, _: Generator) -> None:
    """Puts a neighbour of the same kind in its place."""
    others = [k for k in sorted(path.parent.glob(f"*{path.suffix}")) if k != path]
    shutil.copy(others[-1], path)


GENERIC: dict[str, Damage] = {
    **{f"cut off at {k}/16" if k else "empty": truncated(k) for k in range(16)},
    **{f"flipped bit, {k}": flipped_bit for k in range(4)},
    **{f"flipped byte, {k}": flipped_byte for k in range(3)},
    **{f"flipped byte of the header, {k}": flipped_header for k in range(3)},
    **{f"zeroed block, {k}": zeroed_block for k in range(3)},
    "zeroed": zeroed,
    "noise": noise,
    "halves swapped": swapped_halves,
    "longer": longer,
    "missing": missing,
    "a folder instead": folder_instead,
    "a link to itself": loop_instead,
    "no permission": forbidden,
}


# --- JSON ---


def _changed_json(change: Callable[[dict, Generator], object]) -> Damage:
    def apply(path: Path, rng: Generator) -> None:
        content = json.loads(path.read_text())
        changed = change(content, rng)
        path.write_text(json.dumps(content if changed is None else changed))

    return apply


def _places(content: object, where: tuple = ()) -> list[tuple]:
    """All keys of nested dicts and lists."""
    inside = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    return [p for key, value in inside for p in ((*where, key), *_places(value, (*where, key)))]


def _parent(content: dict, place: tuple) -> dict | list:
    for key in place[:-1]:
        content = content[key]
    return content


@_changed_json
def key_removed(content: dict, rng: Generator) -> None:
    """Removes one key."""
    place = _pick(content, rng)
    del _parent(content, place)[place[-1]]


@_changed_json
def value_replaced(content: dict, rng: Generator) -> None:
    """Replaces one value by one of another type."""
    place = _pick(content, rng)
    values: list = [None, -1, "x", [], {}, 1e308, True]
    _parent(content, place)[place[-1]] = values[rng.integers(len(values))]


@_changed_json
def number_changed(content: dict, rng: Generator) -> None:
    """Makes one number half as large again."""
    numbers = [
        p
        for p in _places(content)
        if isinstance(_parent(content, p)[p[-1]], (int, float))
        and not isinstance(_parent(content, p)[p[-1]], bool)
    ]
    place = numbers[rng.integers(len(numbers))]
    parent = _parent(content, place)
    parent[place[-1]] = type(parent[place[-1]])(parent[place[-1]] * 1.5 + 1)


@_changed_json
def list_instead(content: dict, _: Generator) -> list:
    """Wraps all of it in a list."""
    return [content]


def _pick(content: dict, rng: Generator) -> tuple:
    places = _places(content)
    return places[rng.integers(len(places))]


def deep(path: Path, _: Generator) -> None:
    """Ten thousand brackets, one in the other."""
    path.write_text("[" * 10_000 + "]" * 10_000)


JSON: dict[str, Damage] = {
    **{f"key removed, {k}": key_removed for k in range(4)},
    **{f"value replaced, {k}": value_replaced for k in range(5)},
    **{f"number changed, {k}": number_changed for k in range(4)},
    "a list instead": list_instead,
    "nested too deep": deep,
}


# --- text: descriptions and flags ---


def _text(edit: Callable[[str, Generator], str]) -> Damage:
    def apply(path: Path, rng: Generator) -> None:
        path.write_text(edit(path.read_text(), rng))

    return apply


@_text
def line_removed(text: str, rng: Generator) -> str:
    """Removes one line."""
    lines = text.splitlines()
    del lines[rng.integers(len(lines))]
    return "\n".join(lines) + "\n"


@_text
def line_doubled(text: str, rng: Generator) -> str:
    """Repeats one line."""
    lines = [k for k in text.splitlines() if k]
    k = rng.integers(len(lines))
    return "\n".join([*lines[: k + 1], *lines[k:]]) + "\n"


@_text
def letter_changed(text: str, rng: Generator) -> str:
    """Replaces one letter or digit."""
    places = [m.start() for m in re.finditer(r"\w", text)]
    k = places[rng.integers(len(places))]
    return text[:k] + "xZ09-"[rng.integers(5)] + text[k + 1 :]


def replaced(pattern: str, replacement: str) -> Damage:
    """Replaces what a pattern finds first."""

    def apply(path: Path, _: Generator) -> None:
        text = path.read_text()
        changed = re.sub(pattern, replacement.replace("\\", r"\\"), text, count=1, flags=re.M)
        if changed == text:
            raise ValueError(f"{path} has no {pattern}")
        path.write_text(changed)

    return apply


def replacing(*rows: tuple[str, str, str]) -> dict[str, Damage]:
    """Damage by name, from names, patterns, and what replaces what each finds first."""
    return {name: replaced(pattern, replacement) for name, pattern, replacement in rows}


TEXT: dict[str, Damage] = {
    **{f"line removed, {k}": line_removed for k in range(6)},
    **{f"line doubled, {k}": line_doubled for k in range(4)},
    **{f"letter changed, {k}": letter_changed for k in range(8)},
}
TOML: dict[str, Damage] = replacing(
    ("scale of nan", r"scale = .*", "scale = nan"),
    ("scale of inf", r"scale = .*", "scale = inf"),
    ("negative scale", r"scale = .*", "scale = -0.0001"),
    ("scale as text", r"scale = .*", 'scale = "0.0001"'),
    ("range of nan", r"valid_range = .*", "valid_range = [nan, 1]"),
    ("range the wrong way round", r"valid_range = .*", "valid_range = [10000, 0]"),
    ("range of three", r"valid_range = .*", "valid_range = [0, 1, 2]"),
    ("no bands", r"bands = .*", "bands = []"),
    ("a band twice", r"bands = .*", 'bands = ["green", "green"]'),
    ("bands as a number", r"bands = .*", "bands = 2"),
    ("three bands", r"bands = .*", 'bands = ["green", "nir", "red"]'),
    ("a date that is none", r'"2001-10-17"', '"2001-13-17"'),
    ("a date before Christ", r'"2001-10-17"', '"-0044-03-15"'),
    ("dates as numbers", r"train = .*", "train = [20011008, 20011017]"),
    ("a date with a time", r'"2001-10-17"', "2001-10-17T12:00:00Z"),
    ("a date in two splits", r'test = \["2001-11-09"\]', 'test = ["2001-10-17"]'),
    ("tiles of 0", r"size = 32", "size = 0"),
    ("tiles of a billion", r"size = 32", "size = 1000000000"),
    ("tiles as text", r"size = 32", 'size = "32"'),
    ("an unknown key", r"size = 32", "size = 32\nsiez = 32"),
    ("an unknown table", r"\[tiles\]", "[tilse]"),
    ("a table for a value", r'name = ".*"', "name = {a = 1}"),
    ("a pattern without a date", r'files = ".*"', 'files = "*.tif"'),
    ("a pattern that leads out", r'files = ".*"', 'files = "../../../../etc/{year}/*"'),
    ("a pattern of brackets", r'files = ".*"', 'files = "F_{year}{{month}[(.tif"'),
    ("an absolute pattern", r'files = ".*"', 'files = "/F_{year}-{month}-{day}.tif"'),
    ("an empty pattern", r'files = ".*"', 'files = ""'),
    ("a root that is not there", r"bands = ", 'root = "nowhere"\nbands = '),
    ("a root of an unset variable", r"bands = ", 'root = "${NO_SUCH_VARIABLE}"\nbands = '),
    ("a number of a thousand digits", r"size = 32", "size = " + "9" * 5000),
)
FLAGS: dict[str, Damage] = replacing(
    ("an unknown flag", r"--steps=4", "--setps=4"),
    ("steps of nan", r"--steps=4", "--steps=nan"),
    ("negative steps", r"--steps=4", "--steps=-4"),
    ("a patch of 0", r"--patch_size=16", "--patch_size=0"),
    ("a patch larger than a tile", r"--patch_size=16", "--patch_size=64"),
    ("a batch for no machine", r"--batch_size=2", "--batch_size=1000000000"),
    ("a schedule that is none", r"--schedule=constant", "--schedule=zigzag"),
    ("an even kernel", r"--kernel_sizes=3,3", "--kernel_sizes=2,3"),
    ("too few kernels", r"--kernel_sizes=3,3", "--kernel_sizes=3"),
    ("kernels as text", r"--kernel_sizes=3,3", "--kernel_sizes=a,b"),
    ("a folder that is not there", r"--records_dir=.*", "--records_dir=/nowhere"),
    ("the flag file itself", r"--steps=4", "--flagfile=/nowhere.flags"),
    ("an optimizer that is none", r"--steps=4", "--steps=4\n--optimizer=os.system"),
    ("code for an argument", r"--steps=4",
     '--steps=4\n--optimizer_args=epsilon=__import__("os").getpid()'),
    ("a monitor that is none", r"--steps=4", "--steps=4\n--monitor=mood"),
    ("a learning rate of nan", r"--steps=4", "--steps=4\n--learning_rate=nan"),
)  # fmt: skip
