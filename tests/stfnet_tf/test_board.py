import numpy as np
import pytest
import tensorflow as tf

from data_prep import records
from stfnet_tf import board, combination, model, presets


def info(bands, mean, std):
    count = len(bands)
    flat = {"mean": [mean] * count, "std": [std] * count}
    return records.DatasetInfo(
        name="toy",
        bands=bands,
        fine=records.Encoding(),
        coarse=records.Encoding(),
        ratio=8.0,
        psf_fwhm=1.0,
        tile_size=8,
        supervision="triplet",
        statistics={"fine": flat, "coarse": flat},
    )


@pytest.mark.parametrize(
    ("bands", "channels"),
    [(("blue", "green", "red", "nir"), 3), (("ndvi",), 1), (("red", "nir"), 1)],
)
def test_a_panel_shows_six_images_with_one_stretch(bands, channels):
    """Mean is middle grey, 2.5 standard deviations below and above are black and white."""
    shape = (1, 8, 8, len(bands))
    values = {"f1": 0.3, "f3": 0.3 + 2.5 * 0.1, "c2": 0.3 - 2.5 * 0.1, "f2": 0.3}
    batch = {k: tf.fill(shape, v) for k, v in values.items()}
    batch |= {f"valid_{k}": tf.ones((1, 8, 8, 1)) for k in values}
    batch["valid_f3"] = tf.concat([tf.ones((1, 4, 8, 1)), tf.zeros((1, 4, 8, 1))], axis=1)
    f2 = np.full(shape, 0.35)
    f2[0, 0, 4:], f2[0, 0, 7], f2[0, 1, 0] = 0.0, np.nan, np.inf
    sides = np.full((1, 8, 8, 1), 3, np.uint8)
    sides[0, 0, 4:6] = 0
    fused = combination.Fused(tf.constant(f2), tf.constant(f2), tf.constant(sides))
    with np.errstate(all="raise"):
        picture = board.panel(batch, fused, info(bands, 0.3, 0.1))
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 16 + board.GAP, 24 + 2 * board.GAP, channels)
    pitch = 8 + board.GAP
    strips = [
        picture[0, row * pitch :, col * pitch :][:8, :8] for row in range(2) for col in range(3)
    ]
    middle = [int(strip[0, 0, 0]) for strip in strips]
    # F1, F3, C2, F̂2, F2, |F̂2 − F2| = half a standard deviation.
    assert middle == pytest.approx([127, 255, 0, 152, 127, 127], abs=1)
    assert strips[1][7, 0, 0] == 127  # Invalid pixels are grey.
    # Without a prediction as well, and there is no error; a wrong one and none at all are black.
    np.testing.assert_array_equal(strips[3][0, 4:, 0], [127, 127, 0, 0])
    np.testing.assert_array_equal(strips[5][0, 4:, 0], [0, 0, 255, 255])
    assert strips[3][1, 0, 0] == strips[5][1, 0, 0] == 255


def test_panels_are_drawn_at_the_first_and_last_step_and_some_between(tmp_path):
    """Validation may follow each step; drawing would take longer than all else."""
    from tensorboard.backend.event_processing import event_accumulator

    config = presets.build("paper", bands=("red",), filters=(2,), kernel_sizes=(3, 1))
    images = {k: tf.fill((1, 8, 8, 1), 0.2) for k in ("f1", "f2", "f3", "c1", "c2", "c3")}
    batch = images | {f"valid_{k}": tf.ones((1, 8, 8, 1)) for k in images}
    shown = board.Board(tmp_path, model.StfNet(config), info(("red",), 0.2, 0.1), [("a", batch)])
    steps = (1, 2, 25, 26, 50, 51, 60)
    for step in steps:
        shown.report(step, {"loss": 1 / step}, last=step == 60)
    log = event_accumulator.EventAccumulator(str(tmp_path / "validation")).Reload()
    assert [event.step for event in log.Tensors("tiles/a")] == [1, 26, 51, 60]
    assert [event.step for event in log.Tensors("loss")] == list(steps)
