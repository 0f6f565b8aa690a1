"""What all tests share: where the real data lie, and a quiet TensorFlow."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow Addons must see the Keras that the package uses; read when TensorFlow is imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# A shell has what it starts in the background ignore Ctrl-C, and the programs under test with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, so that a run that passed passes; `make properties` looks for others.
hypothesis.settings.register_profile(
    "quick", max_examples=20, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile("long", max_examples=1000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="session")
def stfnet_data(monkeypatch_session) -> Path:
    """The folder of real images, or a skip that says why."""
    folder = Path(os.environ.get("STFNET_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"real images: STFNET_DATA names no folder ({folder})")
    monkeypatch_session.setenv("STFNET_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def monkeypatch_session():
    with pytest.MonkeyPatch.context() as patch:
        yield patch
