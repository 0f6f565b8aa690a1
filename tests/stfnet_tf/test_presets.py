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
        (
            {"reconstruction": 0.0, "temporal_consistency": 0.0},
            "reconstruction: expected a weight above 0 for .* rest; found 0 for all, so that",
        ),
        ({"gain": float("nan")}, "gain: expected a number above 0, found nan"),
        ({"bands": ()}, "bands"),
        ({"filters": (-3, 8)}, r"filters: expected numbers of at least 1, found \(-3, 8\)"),
        ({"filters": (32, 0)}, r"filters: expected numbers of at least 1, found \(32, 0\)"),
        ({"ratio": 1e9}, "ratio: expected a number above 0 and of at most 1000, found 1000000000"),
        ({"psf_fwhm": 1000.0}, "psf_fwhm: expected a number above 0 and of at most 10, found 1000"),
        (
            {
                "start": "ridge",
                "filters": (),
                "kernel_sizes": (1,),
                "coarse_input": False,
                "back_projection": 1.0,
                "shared_streams": True,
            },
            "shared_streams: expected false, because 'ridge' starts each stream from a regression",
        ),
        (
            {"level_sigma": 126.0},
            "level_sigma: expected a blur of σ = 2000 fine .*found 126, which is 2016 at a ratio",
        ),
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


def test_a_value_that_is_wrong_in_a_file_is_named_with_it(tmp_path):
    (tmp_path / presets.CONFIG_FILE).write_text('{"bands": ["red"], "change": "ratio"}')
    with pytest.raises(errors.InputError, match=r"model\.json: expected .*, found: change: exp"):
        presets.ModelConfig.load(tmp_path)


def test_sigmas_are_in_fine_pixels():
    config = presets.build("paper", bands=("a",), ratio=16.0, psf_fwhm=1.0, coarse_filter=0.5)
    assert config.psf_sigma == pytest.approx(16 / 2.354820045)
    assert config.coarse_filter_sigma == 8.0
