"""StfNet for TensorFlow: records in; models, scores and fused images out."""

__version__ = "0.1.0"
