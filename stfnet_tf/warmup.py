"""Warm-up requests: TensorFlow Serving runs them before it lets a new version answer.

The first call of each signature is slow; warm-up spends that time before the first client does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_prep import records

FILE = "tf_serving_warmup_requests"
SIZE = 32


def images(info: records.DatasetInfo) -> dict[str, Any]:
    """Five plausible images of SIZE × SIZE pixels, digital numbers as tensors."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shape = (1, SIZE, SIZE, len(info.bands))
    made = {}
    for name in ("f1", "f3", "c1", "c2", "c3"):
        encoding = info.encoding(name)
        dn = (rng.uniform(0.05, 0.4, shape) - encoding.offset) / encoding.scale
        made[name] = tf.constant(dn.astype(encoding.dtype))
    return made


def requests(fusion: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """One call of every signature: its name and its inputs as tensors."""
    import tensorflow as tf

    inputs = images(fusion.info)
    inputs |= {f"valid_{k}": tf.ones(v.shape[:3], tf.bool) for k, v in list(inputs.items())}
    inputs |= {k: tf.fill([1, len(fusion.info.bands)], 0.01) for k in ("v12", "v23")}
    tile = records.Tile(
        images={k: inputs[k].numpy()[0] for k in images(fusion.info)},
        valid={k: inputs[f"valid_{k}"].numpy()[0] for k in images(fusion.info)},
        dates=("2001-05-24", "2001-07-11", "2001-08-12"),
        origin=(0, 0),
        scene=fusion.info.name,
    )
    inputs["examples"] = tf.constant([records.encode(tile)])
    for name, function in fusion.signatures.items():
        yield name, {k: inputs[k] for k in function.structured_input_signature[1]}


def write(fusion: Any, path: Path) -> bool:
    """Writes one request for every signature as TensorFlow Serving reads them.

    Args:
        fusion: A `fusion.Fusion`.
        path: The file, `assets.extra/tf_serving_warmup_requests` of an export.

    Returns:
        Whether it was written: the messages' definitions come with the extra "serving".
    """
    import tensorflow as tf

    try:
        from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2
    except ImportError:
        logging.warning(
            "No warm-up requests: they need the extra 'serving' (pip install 'stfnet-tf[serving]')."
        )
        return False
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs in requests(fusion):
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=fusion.info.name, signature_name=name),
                inputs={k: tf.make_tensor_proto(v) for k, v in inputs.items()},
            )
            log = prediction_log_pb2.PredictLog(request=request)
            entry = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(entry.SerializeToString(deterministic=True))
    return True
