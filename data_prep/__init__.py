"""Rasters in, sharded TFRecords of co-registered tiles out."""
