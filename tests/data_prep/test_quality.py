import numpy as np

from data_prep import dataset, quality

# A real MOD09GA state value: cloudy (01), shadow (bit 2), cirrus high (bits 8-9), internal cloud.
STATE = 0b0000_0111_0000_0101


def test_bit_rules_by_hand():
    rules = {
        "cloud": dataset.Rule((0, 1), (1, 2)),
        "shadow": dataset.Rule((2, 2)),
        "cirrus": dataset.Rule((8, 9), (2, 3)),
        "snow": dataset.Rule((12, 12)),
        "saturation": dataset.Rule((4, 6), keep=(0,)),
    }
    layer = np.array([[0, 1, 2, 3], [4, STATE, 1 << 12, 1 << 5]], np.uint16)

    def bad(*names):
        return quality.rejected(layer, rules, names).astype(int).tolist()

    assert bad("cloud") == [[0, 1, 1, 0], [0, 1, 0, 0]]
    assert bad("shadow") == [[0, 0, 0, 0], [1, 1, 0, 0]]
    assert bad("cirrus") == [[0, 0, 0, 0], [0, 1, 0, 0]]
    assert bad("snow") == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert bad("saturation") == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert bad("cloud", "snow") == [[0, 1, 1, 0], [0, 1, 1, 0]]
    assert bad("another layer's rule") == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_whole_values_and_the_highest_bit():
    layer = np.array([[0, 4, 255, 1 << 31]], np.uint32)
    rules = {"fill": dataset.Rule(None, (255,)), "top": dataset.Rule((31, 31))}
    assert quality.rejected(layer, rules, ["fill"]).tolist() == [[False, False, True, False]]
    assert quality.rejected(layer, rules, ["top"]).tolist() == [[False, False, False, True]]


def test_grown_by_pixels_in_all_directions():
    bad = np.zeros((7, 7), bool)
    bad[3, 3] = bad[0, 6] = True
    grown = quality.grown(bad, 2)
    expected = np.zeros((7, 7), bool)
    expected[1:6, 1:6] = expected[0:3, 4:7] = True
    assert (grown == expected).all()
    assert quality.grown(bad, 0) is bad


def test_a_pixel_is_usable_only_in_all_its_bands():
    dn = np.array([[[1, 1], [-9999, 1], [1, 10001], [0, 10000]]], np.int16)
    assert quality.in_range(dn, (-9999,), (0, 10000)).tolist() == [[True, False, False, True]]
    # A fill that the type cannot hold is nowhere.
    assert quality.in_range(dn.astype(np.uint8), (-9999.0,), None).all()


def test_float_fill_is_compared_in_float32():
    dn = np.array([[[-3.4e38], [0.5], [np.nan], [np.inf]]], np.float32)
    assert quality.in_range(dn, (-3.4e38,), None).tolist() == [[False, True, False, False]]


def test_what_is_not_a_number_tells_of_no_good_pixel():
    layer = np.array([[0.0, 8.0, np.nan, np.inf]], np.float32)
    bad = quality.rejected(layer, {"cloud": dataset.Rule((3, 3))}, ["cloud"])
    assert bad.tolist() == [[False, True, True, True]]
