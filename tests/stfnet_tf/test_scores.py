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


CLOCKWISE = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def test_edge_and_lbp_agree_with_loops_over_pixels():
    x, y = (np.round(image(seed, bands=1)[..., 0], 2) for seed in (8, 9))
    valid = np.random.default_rng(10).random(x.shape) < 0.95
    edges, codes = [], []
    for row in range(1, x.shape[0] - 1):
        for col in range(1, x.shape[1] - 1):
            if valid[row : row + 2, col : col + 2].all():
                edges.append(
                    [
                        abs(d[row, col] - d[row + 1, col + 1])
                        + abs(d[row + 1, col] - d[row, col + 1])
                        for d in (x, y)
                    ]
                )
            if valid[row - 1 : row + 2, col - 1 : col + 2].all():
                codes.append(
                    [
                        sum(
                            2 ** (7 - bit) * (d[row + i, col + j] - d[row, col] > 0.0051)
                            for bit, (i, j) in enumerate(CLOCKWISE)
                        )
                        for d in (x, y)
                    ]
                )
    a, b = np.array(edges).T
    strong = a >= np.quantile(a, 0.9)
    expected_edge = np.mean(((b - a) / (b + a + 1e-5))[strong])
    a, b = np.array(codes).T / 255
    expected_lbp = np.mean((b - a) / (b + a + 1e-5))
    x, y = np.where(valid, x, np.nan), np.where(valid, y, np.nan)
    assert scores.edge(x, y, valid) == pytest.approx(expected_edge, abs=1e-12)
    assert scores.lbp(x, y, valid) == pytest.approx(expected_lbp, abs=1e-12)


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
    everywhere = np.ones(x.shape[:2], bool)
    # The mean of so many is rounded, so that NumPy's variance is not quite 0.
    constant = np.full(x.shape[:2], 0.7)
    for pair in ((constant, constant), (constant, x[..., 0]), (x[..., 0], constant)):
        assert math.isnan(scores.cc(*pair, everywhere))
    # A band that is 0 on average has no relative error.
    assert math.isnan(scores.ergas(x * [1, 1, 0], x, everywhere, ratio=16))
    # One band has a length and no direction.
    alone = scores.score(
        x[..., :1], x[..., 1:2], everywhere, bands=("a",), ratio=16, method="m", date="d"
    )
    assert math.isnan(alone.mean("sam_deg")) and alone.mean("ergas") > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_left_out(value):
    x, y = image(11), image(12)
    valid = np.ones(x.shape[:2], bool)
    left = valid.copy()
    left[3, 4] = left[5, 6] = False
    x[3, 4, 1] = y[5, 6, 0] = value
    bands = ("a", "b", "c")
    found = scores.score(x, y, valid, bands=bands, ratio=16, method="m", date="d")
    assert found.pixels == left.sum() == valid.sum() - 2
    expected = math.sqrt(np.mean((x[left] - y[left])[:, 1] ** 2))
    assert found.per_band["rmse"][1] == pytest.approx(expected)


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
    assert c.means == (pytest.approx(0.035), pytest.approx(0.07))
    constant = scores.calibrate(np.ones((2, 4)), error, np.ones((2, 4), bool), "nir")
    assert math.isnan(constant.spearman)
    # What is not known on either side takes no part: 0 is left out here, and 7.
    predicted[0, 0], error[1, 3] = np.nan, np.inf
    c = scores.calibrate(predicted, error, np.ones((2, 4), bool), "nir", bins=2)
    assert c.pixels == (3, 3)
    assert c.actual == (pytest.approx(0.04), pytest.approx(0.1))
    nowhere = scores.calibrate(predicted, error, np.zeros((2, 4), bool), "nir")
    assert all(math.isnan(k) for k in nowhere.means)


def test_means_of_bins_of_unequal_size_are_those_of_the_pixels():
    predicted = np.array([0.01, 0.02, 0.03, 0.06, 0.08])
    c = scores.calibrate(predicted, predicted**2, np.ones(5, bool), "nir", bins=2)
    assert c.pixels == (3, 2)
    assert c.means == (pytest.approx(0.04), pytest.approx(np.mean(predicted**2)))


def test_the_table_of_the_quality_layer_has_a_row_for_each_date():
    def of(band, spearman, predicted):
        return scores.Calibration(band, spearman, (predicted,), (0.02,), (9,))

    both = (of("red", 0.25, 0.01), of("all bands", -0.5, 0.03))
    unknown = (of("red", math.nan, 0.01), scores.Calibration("all bands", math.nan, (), (), ()))
    table = scores.Report(
        "d", (), calibrations={"plus": {"2001-07-11": both, "2001-08-12": unknown}}
    ).quality_table()
    columns = {str(c.header): list(c.cells) for c in table.columns}
    assert columns == {
        "method": ["plus", "plus"],
        "date": ["2001-07-11", "2001-08-12"],
        "expected": ["0.03000", "–"],
        "true": ["0.02000", "–"],
        "rank corr.\nred": ["0.2500", "–"],
        "rank corr.\nall bands": ["-0.5000", "–"],
    }


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


def test_what_is_not_finite_is_empty_and_null(tmp_path):
    x = image(13)
    valid = np.ones(x.shape[:2], bool)
    equal = scores.score(x, x, valid, bands=("a", "b", "c"), ratio=16, method="m", date="d")
    json_path, csv_path = scores.Report("test", (equal,)).save(tmp_path)
    assert json.loads(json_path.read_text())["scores"][0]["psnr"]["mean"] is None
    rows = list(csv.DictReader(io.StringIO(csv_path.read_text())))
    assert [row["psnr"] for row in rows] == [""] * 4 and rows[0]["rmse"] == "0.0"


SMALL_IS_GOOD = ("rmse", "aad", "sam_deg", "ergas", "consistency", "seconds", "fit_seconds")
LARGE_IS_GOOD = ("cc", "psnr", "ssim", "uiqi", "coverage")


def one(measure, value, date="d"):
    """Scores that hold one measure alone."""
    return scores.Scores("m", date, ("a",), 1, {}, {measure: value})


@pytest.mark.parametrize(
    ("measure", "values", "best"),
    [
        *((measure, (0.2, 0.3), 0) for measure in (*SMALL_IS_GOOD, "peak_mib")),
        *((measure, (0.2, 0.3), 1) for measure in LARGE_IS_GOOD),
        *((measure, (-0.3, 0.2), 1) for measure in ("bias", "edge", "lbp")),
        ("rmse", (math.nan, 0.3), 1),
    ],
)
def test_best_is_by_the_measure_and_not_by_size(measure, values, best):
    rows = [one(measure, value) for value in values]
    assert scores._best_rows(rows, [measure]) == {measure: {best}}


def test_best_of_a_date_needs_a_rival_that_could_be_scored():
    rows = [one("rmse", 0.1, "alone"), *(one("rmse", math.nan, "clouded") for _ in range(2))]
    assert scores._best_rows(rows, ["rmse"]) == {"rmse": set()}
    tied = [one("rmse", 0.2), one("rmse", 0.2), one("rmse", 0.3), one("rmse", 0.1, "another")]
    assert scores._best_rows(tied, ["rmse"]) == {"rmse": {0, 1}}
