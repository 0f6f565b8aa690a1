import concurrent.futures

import pytest

from data_prep import errors, whole


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "new" / "accuracy.md"
    texts = [str(k) * 200_000 for k in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: whole.write_text(path, text), texts * 4))
    assert path.read_text() in texts
    assert list(path.parent.iterdir()) == [path]
    # As any file that a user makes, not private as those of tempfile.
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.csv"
    whole.write_text(path, "before")
    with pytest.raises(KeyError), whole.replacing(path) as scratch:
        assert scratch.suffix == ".csv"
        scratch.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(errors.InputError, match=r"a\.csv/b: could not be written"):
        whole.write_text(path / "b", "text")
