#!/bin/sh
# The main job, end to end, as a user would do it: ./demo.sh FOLDER
set -eu
out=$1
rm -rf "$out"
step() { printf '\n== %s\n' "$*"; "$@"; }

data="--dataset=configs/sample.toml --data_dir=$out/sample"
step python -m data_prep.make_sample --output_dir="$out/sample"
step python -m data_prep.inspect $data --plot="$out/inspect.png"
step python -m data_prep.write_tfrecords $data --output_dir="$out/records"
step python -m stfnet_tf.train --flagfile=configs/sample.flags --records_dir="$out/records" \
    --model_dir="$out/model"
step python -m stfnet_tf.evaluate $data --model_dir="$out/model" \
    --output_dir="$out/model/evaluation"
step python -m stfnet_tf.fuse $data --model_dir="$out/model" --dates=2002-02-13 \
    --output_dir="$out/fused"
step python -m stfnet_tf.export --model_dir="$out/model" --export_dir="$out/saved_models"

python - "$out" <<'PYTHON'
import json
import sys

out = sys.argv[1]
rows = json.load(open(f"{out}/model/evaluation/metrics.json"))["scores"]
dates = sorted({row["date"] for row in rows})
names = {
    "copy": "copying the nearest fine image",
    "coarse_change": "fine + coarse change",
    "stfnet": "StfNet",
}
print("\nMean RMSE in reflectance on dates that training has not seen\n")
print(f"{'':32}" + "".join(f"{date:>12}" for date in dates))
for method, name in names.items():
    found = {row["date"]: row["rmse"]["mean"] for row in rows if row["method"] == method}
    print(f"{name:32}" + "".join(f"{found[date]:12.5f}" for date in dates))
print(f"""
picture      {out}/model/evaluation/images_2002-02-13.png
GeoTIFF      {out}/fused/2002-02-13.tif (its quality: 2002-02-13_quality.tif)
TensorBoard  tensorboard --logdir={out}/model
SavedModel   {out}/saved_models/sample/1""")
PYTHON
