"""Records as the tests look at them: read outside a graph, whole, by protobuf's own code."""

import numpy as np
import tensorflow as tf

from data_prep import records


def decode(serialized: bytes, info: records.DatasetInfo) -> records.Tile:
    """Reads one record, `records.encode`'s inverse."""
    features = tf.train.Example.FromString(serialized).features.feature
    shape = tuple(features[k].int64_list.value[0] for k in ("height", "width", "bands"))
    bits = np.frombuffer(features["valid"].bytes_list.value[0], np.uint8).reshape(shape[:2])
    present = [k for k in records.IMAGES if k in features]
    return records.Tile(
        images={
            k: np.frombuffer(
                features[k].bytes_list.value[0], np.dtype(info.encoding(k).dtype).newbyteorder("<")
            ).reshape(shape)
            for k in present
        },
        valid={k: (bits >> records.IMAGES.index(k) & 1).astype(bool) for k in present},
        dates=tuple(date.decode() for date in features["dates"].bytes_list.value),
        origin=tuple(features["origin"].int64_list.value),
        scene=features["scene"].bytes_list.value[0].decode(),
    )
