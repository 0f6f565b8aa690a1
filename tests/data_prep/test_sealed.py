import json

import pytest

from data_prep import sealed

CONTENT = {"bands": ["red", "nir"], "ratio": 16.0, "nested": {"empty": [], "none": None}}


def test_what_was_written_is_what_is_read(tmp_path):
    sealed.write(tmp_path / "a.json", CONTENT)
    assert sealed.read(tmp_path / "a.json") == CONTENT
    assert [k.name for k in tmp_path.iterdir()] == ["a.json"]


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    sealed.write(path, CONTENT)
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                # What is left of the seal's own name is an unknown key, which readers refuse.
                found = {k: v for k, v in sealed.read(path).items() if k in CONTENT}
                assert found == CONTENT
            except ValueError:
                noticed += 1
    assert noticed > 7 * len(whole)


def test_formatting_does_not_matter_and_older_files_have_no_seal(tmp_path):
    path = tmp_path / "a.json"
    sealed.write(path, CONTENT)
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert sealed.read(path) == CONTENT
    path.write_text(json.dumps(CONTENT))
    assert sealed.read(path) == CONTENT


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": 1, "sha256": 3}', "\x00"])
def test_what_is_no_sealed_object_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):
        sealed.read(tmp_path / "a.json")


def test_files_of_a_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    sums = tmp_path / "sums.json"
    sealed.seal_files(tmp_path, sums)
    sealed.check_files(tmp_path, sums)
    (tmp_path / "more").write_text("what was added is nobody's business")
    sealed.check_files(tmp_path, sums)
    (tmp_path / "inside" / "a").write_text("x")
    with pytest.raises(ValueError, match="inside/a"):
        sealed.check_files(tmp_path, sums)
    (tmp_path / "inside" / "a").unlink()
    with pytest.raises(ValueError, match="inside/a: No such file or directory"):
        sealed.check_files(tmp_path, sums)
    sums.unlink()
    with pytest.raises(ValueError, match=r"sums\.json: No such file or directory"):
        sealed.check_files(tmp_path, sums)
