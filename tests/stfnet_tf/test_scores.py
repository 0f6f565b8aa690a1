"""Every measure against a case worked out by hand, or against an independent implementation."""

import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from skimage import metrics as skimage_metrics

from stfnet_tf import scores

X = np.array([[0.1, 0.2], [0.3, 0.4]])
Y = np.array([[0.1, 0.3], [0.3, 0.8]])
ALL = np.ones((2, 2), bool)


def image(seed, height=24, width=30, bands=3):
    return np.random.default_rng(seed).uniform(0.02, 0.5, (height, width, bands))


def test_pointwise_measures_by_hand():
    # Differences y − x: 0, 0.1, 0, 0.4.
    assert scores.rmse(X, Y, ALL) == pytest.approx(math.sqrt(0.17 / 4))
    assert scores.bias(X, Y, ALL) == pytest.approx(0.125)
    assert scores.bias(Y, X, ALL) == pytest.approx(-0.125)
    assert scores.aad(Y, X, ALL) == pytest.approx(0.125)
    assert scores.psnr(X, Y, ALL) == pytest.approx(10 * math.log10(4 / 0.17))


def test_moments_by_hand():
    # x: mean 0.25, variance 0.0125; y: mean 0.375, variance 0.066875; covariance 0.02625.
    assert scores.cc(X, Y, ALL) == pytest.approx(0.02625 / math.sqrt(0.0125 * 0.066875))
    expected = 4 * 0.02625 * 0.25 * 0.375 / ((0.0125 + 0.066875) * (0.0625 + 0.140625))
    assert scores.uiqi(X, Y, ALL) == pytest.approx(expected)


def test_invalid_pixels_do_not_count():
    valid = np.array([[True, True], [True, False]])
    y = np.where(valid, Y, np.nan)
    assert scores.rmse(X, y, valid) == pytest.approx(math.sqrt(0.01 / 3))
    assert scores.bias(X, y, valid) == pytest.approx(0.1 / 3)


def test_spectral_angle_is_per_pixel_and_skips_zero_vectors():
    x = np.array([[[1.0, 0.0], [0.3, 0.3], [0.0, 0.0]]])
    y = np.array([[[1.0, 1.0], [0.6, 0.6], [0.2, 0.1]]])
    # 45° and 0°; the zero spectrum has no direction. Over bands instead of pixels it differs.
    assert scores.sam_deg(x, y, np.ones((1, 3), bool)) == pytest.approx(22.5, abs=1e-5)


def test_ergas_by_hand():
    x = np.full((2, 2, 2), 0.2)
    x[..., 1] = 0.4
    y = x + np.array([0.02, 0.08])
    # Relative errors 0.1 and 0.2: sqrt((0.01 + 0.04) / 2) · 100 / 16.
    expected = 100 / 16 * math.sqrt(0.025)
    assert scores.ergas(x, y, ALL, ratio=16) == pytest.approx(expected)


def test_edge_by_hand():
    x = np.zeros((5, 5))
    x[2, 2] = 0.2
    y = x / 2
    # Interior pixels (1,1), (1,2), (2,1), (2,2) see the spike: the reference's E is 0.2 at the
    # first and last (diagonal), 0.2 at the others (anti-diagonal and diagonal of their windows);
    # the other 5 are 0. The 0.9 quantile is 0.2, so the four strong ones remain.
    expected = (0.1 - 0.2) / (0.3 + 1e-5)
    assert scores.edge(x, y, np.ones((5, 5), bool)) == pytest.approx(expected)
    assert scores.edge(x, x, np.ones((5, 5), bool)) == 0


def test_lbp_by_hand():
    x = np.zeros((3, 3))
    x[0, 0] = 0.1  # top left: 128
    x[0, 1] = 0.1  # top: 64
    y = np.zeros((3, 3))
    y[0, 0] = 0.1
    y[1, 0] = 0.1  # left: 1
    y[2, 2] = 0.005  # exactly the tolerance is not greater
    a, b = 192 / 255, 129 / 255
    expected = (b - a) / (a + b + 1e-5)
    assert scores.lbp(x, y, np.ones((3, 3), bool)) == pytest.approx(expected)
    for dtype in (np.float32, np.float64):
        dn = np.full((3, 3), 2000)
        dn[1, 2] += 50
        stored = (dn * 1e-4).astype(dtype)
        assert scores.lbp(stored, stored * 0, np.ones((3, 3), bool)) == 0


def test_smoothing_is_negative_and_noise_positive():
    from scipy import ndimage

    x = image(1)[..., 0]
    valid = np.ones(x.shape, bool)
    assert scores.edge(x, ndimage.gaussian_filter(x, 1), valid) < -0.1
    assert scores.edge(ndimage.gaussian_filter(x, 1), x, valid) > 0.1


def test_ssim_agrees_with_scikit_image_and_with_a_loop_over_windows():
    x, y = image(2)[..., 0], image(3)[..., 0]
    expected = skimage_metrics.structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )
    valid = np.ones(x.shape, bool)
    assert scores.ssim(x, y, valid) == pytest.approx(expected, abs=1e-12)

    valid[12, 3] = False
    weights = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for row in range(5, x.shape[0] - 5):
        for col in range(5, x.shape[1] - 5):
            window = np.s_[row - 5 : row + 6, col - 5 : col + 6]
            if not valid[window].all():
                continue
            a, b = x[window], y[window]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            values.append(
                (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
            )  # fmt: skip
    x[12, 3] = np.nan
    assert scores.ssim(x, y, valid) == pytest.approx(np.mean(values), abs=1e-12)


def test_a_perfect_prediction():
    x = image(4)
    s = scores.score(
        x, x, np.ones(x.shape[:2], bool), bands=("a", "b", "c"), ratio=16, method="m", date="d"
    )
    for measure in ("rmse", "bias", "aad", "edge", "lbp", "ergas"):
        assert s.mean(measure) == 0
    assert s.mean("sam_deg") == pytest.approx(0, abs=1e-4)
    for measure in ("cc", "ssim", "uiqi"):
        assert s.mean(measure) == pytest.approx(1)
    assert s.mean("psnr") == math.inf


def test_nothing_to_score_is_nan_and_null():
    x = image(5)
    s = scores.score(
        x, x, np.zeros(x.shape[:2], bool), bands=("a", "b", "c"), ratio=16, method="m", date="d"
    )
    assert s.pixels == 0
    assert all(math.isnan(s.mean(m)) for m in (*scores.BAND_MEASURES, *scores.IMAGE_MEASURES))
    assert s.as_dict()["rmse"]["a"] is None
    constant = np.full((12, 12), 0.3)
    assert math.isnan(scores.cc(constant, constant, np.ones((12, 12), bool)))


def test_consistency_by_hand():
    f12, f23 = np.full((4, 4, 1), 0.02), np.full((4, 4, 1), 0.03)
    f13 = np.full((4, 4, 1), 0.04)
    s = scores.score(
        f13, f12, np.ones((4, 4), bool), bands=("nir",), ratio=8, method="m", date="d",
        changes=(f12, f23, f13),
    )  # fmt: skip
    assert s.per_band["consistency"] == (pytest.approx(0.01),)


def test_consistency_is_over_pixels_where_all_changes_are_known():
    f12, f23 = np.full((4, 4, 2), 0.02), np.full((4, 4, 2), 0.03)
    f13 = np.full((4, 4, 2), 0.04)
    # A cloud over F1 in the first row, over C3 in the second column; F̂2 stands all the same.
    f13[0], f12[0], f23[:, 1, 0] = np.nan, 0.9, np.nan
    valid = np.ones((4, 4), bool)
    valid[3] = False
    f12[3] = 0.7

    def rate(*changes):
        return scores.score(
            f13, f12, valid, bands=("red", "nir"), ratio=8, method="m", date="d", changes=changes
        )

    assert rate(f12, f23, f13).per_band["consistency"] == (pytest.approx(0.01),) * 2
    nowhere = rate(f12, np.full_like(f23, np.nan), f13)
    assert nowhere.as_dict()["consistency"] == {"red": None, "nir": None, "mean": None}
    table = scores.Report("d", (nowhere, nowhere)).table()
    assert list(table.columns[4 + len(scores.BAND_MEASURES)].cells) == ["–", "–"]


def test_shapes_are_checked():
    x = image(6)
    with pytest.raises(ValueError, match=r"prediction has shape .* expected \(24, 30, 3\)"):
        scores.score(
            x, x[1:], np.ones((24, 30), bool), bands=("a", "b", "c"), ratio=16, method="m", date="d"
        )


def test_calibration_by_hand():
    predicted = np.arange(8.0).reshape(2, 4) / 100
    error = -2 * predicted
    c = scores.calibrate(predicted, error, np.ones((2, 4), bool), "nir", bins=2)
    assert c.spearman == pytest.approx(1)
    assert c.pixels == (4, 4)
    assert c.predicted == (pytest.approx(0.015), pytest.approx(0.055))
    assert c.actual == (pytest.approx(0.03), pytest.approx(0.11))
    constant = scores.calibrate(np.ones((2, 4)), error, np.ones((2, 4), bool), "nir")
    assert math.isnan(constant.spearman)


@pytest.fixture
def report():
    x = image(7)
    valid = np.ones(x.shape[:2], bool)
    rows = [
        scores.score(
            x, x + e, valid, bands=("green", "red", "nir"), ratio=16, method=name, date="2001-07-11"
        ).with_extras(seconds=e * 100)
        for name, e in (("near", 0.01), ("far", 0.02))
    ]
    calibration = scores.calibrate(np.abs(x[..., 0]), x[..., 0], valid, "green")
    return scores.Report("test", tuple(rows), calibrations={"near": {"d": (calibration,)}})


def test_json_csv_and_table_say_the_same(report, tmp_path):
    json_path, csv_path = report.save(tmp_path / "new" / "folder")
    from_json = json.loads(json_path.read_text())["scores"]
    rows = list(csv.DictReader(io.StringIO(csv_path.read_text())))
    assert [r["band"] for r in rows] == ["green", "red", "nir", "mean"] * 2
    for entry, s in zip(from_json, report.scores, strict=True):
        for measure in scores.BAND_MEASURES:
            mean = next(r for r in rows if r["method"] == s.method and r["band"] == "mean")
            assert float(mean[measure]) == entry[measure]["mean"] == s.mean(measure)
            assert entry[measure]["red"] == s.per_band[measure][1]
    console = Console(width=250, file=io.StringIO())
    console.print(report.table())
    text = console.file.getvalue()
    assert "0.01000" in text and "0.02000" in text and "near" in text
    assert sorted(p.name for p in json_path.parent.iterdir()) == ["metrics.csv", "metrics.json"]


def test_best_is_by_the_measure_and_not_by_size(report):
    best = scores._best_rows(report.scores, ("rmse", "psnr", "bias"))
    assert best == {"rmse": {0}, "psnr": {0}, "bias": {0}}
