import pytest

from stfnet_tf import callbacks


def test_history_is_cut_back_to_the_checkpoint_and_goes_on(tmp_path):
    path = tmp_path / "history.csv"
    before = callbacks.History(path, 0)
    for step in (3, 6, 9):
        before.add({"epoch": step / 3, "step": step, "loss": 1 / step})
    after = callbacks.History(path, 6)
    assert [row["step"] for row in after.rows] == [3, 6]
    after.add({"epoch": 3, "step": 9, "loss": 0.5, "validation_loss": 0.25})
    lines = path.read_text().splitlines()
    assert lines[0] == "epoch,step,loss,validation_loss"
    assert lines[1:] == ["1,3,0.333333333,", "2,6,0.166666667,", "3,9,0.5,0.25"]
    assert not list(tmp_path.glob("*.tmp"))


def test_history_without_a_file_keeps_its_rows():
    history = callbacks.History(None, 0)
    history.add({"step": 1})
    assert history.rows == [{"step": 1}]


def test_sigterm_is_listened_to_only_while_training():
    import signal

    saving = callbacks.Saving(None, 10, 0, 0, list)
    before = signal.getsignal(signal.SIGTERM)
    with saving:
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05")]
)
def test_time_left_is_written_as_hours_minutes_seconds(seconds, text):
    assert callbacks._duration(seconds) == text
