import json
import re

import pytest

from benchmarks import table
from data_prep import errors

OPTIONS = table.Options(rounds=3, quick=False, folder=None)  # type: ignore[arg-type]


@pytest.fixture
def result():
    report = table.Report()
    report.add("speed against another", "×", [1.0, 3.0, 1.5], table.AtLeast(1.2))
    report.add("peak memory", "GiB", [2.5], table.AtMost(2.0))
    report.add("rate", "1/s", [1234.5])
    report.note("nothing else was there.")
    return table.to_json({"training_step": report}, OPTIONS, table.machine())


def test_json_holds_every_round_and_the_verdict(result):
    speed, memory, rate = result["benchmarks"]["training_step"]["rows"]
    assert speed["values"] == [1.0, 3.0, 1.5]
    assert (speed["min"], speed["median"], speed["max"]) == (1.0, 1.5, 3.0)
    assert (speed["bound"], speed["holds"]) == ("≥ 1.2", True)
    assert (memory["bound"], memory["holds"]) == ("≤ 2", False)
    assert (rate["bound"], rate["holds"]) == (None, None)
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["python"]


def test_markdown_is_a_table_with_machine_and_notes(result):
    lines = table.to_markdown(result).splitlines()
    assert lines[0].startswith(result["date"])
    assert result["machine"]["processor"] in lines[0]
    assert "3 alternating rounds" in lines[0]
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert "| speed against another | 1 | 1.5 | 3 | × | ≥ 1.2 | yes |" in rows
    assert "| peak memory | 2.5 | 2.5 | 2.5 | GiB | ≤ 2 | **no** |" in rows
    assert "| rate | 1,234 | 1,234 | 1,234 | 1/s |  |  |" in rows
    assert lines[-1] == "- training step: nothing else was there."


def test_a_quick_run_is_called_one(result):
    assert "quick" in table.to_markdown(result | {"quick": True})
    assert "quick" not in table.to_markdown(result)


def test_both_files_are_written_and_agree(result, tmp_path):
    markdown, raw = table.save(result, tmp_path / "new")
    assert json.loads(raw.read_text()) == result
    assert markdown.read_text() == table.to_markdown(result)
    assert sorted(p.name for p in markdown.parent.iterdir()) == [
        table.JSON_FILE,
        table.MARKDOWN_FILE,
    ]


def test_a_quotation_replaces_what_is_between_the_markers_and_nothing_else(result, tmp_path):
    document = tmp_path / "README.md"
    document.write_text(f"before\n{table.BEGIN}\nformer figures\n{table.END}\nafter\n")
    for _ in range(2):
        table.quote(result, document)
        text = document.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n")
        assert "former figures" not in text
        assert text.count("| peak memory |") == 1


def test_a_document_without_markers_is_refused(result, tmp_path):
    document = tmp_path / "README.md"
    document.write_text(f"{table.END} {table.BEGIN}")
    with pytest.raises(errors.InputError, match="--quote"):
        table.quote(result, document)
    assert document.read_text() == f"{table.END} {table.BEGIN}"
    with pytest.raises(errors.InputError, match=re.escape("none.md")):
        table.quote(result, tmp_path / "none.md")
