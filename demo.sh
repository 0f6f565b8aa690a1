#!/bin/sh
# The main job, end to end, as a user would do it: ./demo.sh FOLDER
set -eu
out=$1
rm -rf "$out"
step() { printf '\n== %s\n' "$*"; "$@"; }

step python -m data_prep.make_sample --output_dir="$out/sample"
step python -m data_prep.inspect --dataset=configs/sample.toml --data_dir="$out/sample" \
    --plot="$out/inspect.png"
step python -m data_prep.write_tfrecords --dataset=configs/sample.toml \
    --data_dir="$out/sample" --output_dir="$out/records"
step python -m stfnet_tf.train --flagfile=configs/sample.flags --data_dir="$out/sample" \
    --records_dir="$out/records" --model_dir="$out/model"
step python -m stfnet_tf.evaluate --dataset=configs/sample.toml --data_dir="$out/sample" \
    --model_dir="$out/model" --output_dir="$out/evaluation"
step python -m stfnet_tf.fuse --dataset=configs/sample.toml --data_dir="$out/sample" \
    --model_dir="$out/model" --output_dir="$out/fused"
step python -m stfnet_tf.export --model_dir="$out/model" --export_dir="$out/saved_models"
