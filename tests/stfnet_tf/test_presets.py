import pytest

from data_prep import errors
from stfnet_tf import presets


def test_round_trip(tmp_path):
    config = presets.build(
        "plus", bands=("red", "nir"), rest=0.5, filters=(8,), kernel_sizes=(3, 3)
    )
    config.save(tmp_path)
    assert presets.ModelConfig.load(tmp_path) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change": "ratio"}, "change: expected one of difference, log, logit; found 'ratio'"),
        ({"kernel_sizes": (9, 5)}, "kernel_sizes: expected one more than the 2 filters, found 2"),
        ({"kernel_sizes": (9, 4, 5)}, "odd"),
        ({"temporal_consistency": -1.0}, "temporal_consistency: expected a number of at least 0"),
        ({"gain": float("nan")}, "gain: expected a number above 0, found nan"),
        ({"bands": ()}, "bands"),
    ],
)
def test_wrong_values_name_the_field(changes, message):
    with pytest.raises(errors.InputError, match=message):
        presets.build("paper", **{"bands": ("red",), **changes})


def test_unknown_preset():
    with pytest.raises(errors.InputError, match="paper, plus; found 'best'"):
        presets.build("best", bands=("red",))


@pytest.mark.parametrize("text", ["{", '{"bands": ["a"], "colour": 1}', "[]"])
def test_damaged_file_is_named(tmp_path, text):
    (tmp_path / presets.CONFIG_FILE).write_text(text)
    with pytest.raises(errors.InputError, match=r"model\.json: expected a model description"):
        presets.ModelConfig.load(tmp_path)


def test_sigmas_are_in_fine_pixels():
    config = presets.build("paper", bands=("a",), ratio=16.0, psf_fwhm=1.0, coarse_filter=0.5)
    assert config.psf_sigma == pytest.approx(16 / 2.354820045)
    assert config.coarse_filter_sigma == 8.0
