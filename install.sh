#!/bin/sh
# Sets up one virtual environment, system packages included; does nothing where it is up to date.
#
#   ./install.sh ENVIRONMENT [EXTRAS]        e.g. ./install.sh .venv dev,distributed
#
# GDAL's Python binding is compiled against the system's GDAL library, so that comes first.
set -eu
environment=$1
extras=${2:-}
python=${PYTHON:-python3}

# The environment remembers what it was made from.
wanted="$extras $("$python" --version) $(cat setup.cfg pyproject.toml install.sh | cksum)"
[ "$(cat "$environment/made-from" 2>/dev/null || true)" != "$wanted" ] || exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed, found $("$python" --version);" \
        "name another one with PYTHON=/path/to/python3 make …" >&2
    exit 1
}

missing=
command -v gdal-config >/dev/null || missing="$missing libgdal-dev"
command -v c++ >/dev/null || missing="$missing g++"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -f "$header" ] || missing="$missing python3-dev"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=
    elif sudo -n true 2>/dev/null; then as_root=sudo
    else as_root=none
    fi
    if [ "$as_root" = none ] || ! command -v apt-get >/dev/null; then
        echo "These system packages are needed first: sudo apt-get install$missing" >&2
        exit 1
    fi
    echo "Installing system packages:$missing"
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
fi

echo "Making $environment with [$extras]; a few minutes, once"
[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
pip="$environment/bin/python -m pip install --quiet --disable-pip-version-check"
$pip --upgrade pip setuptools wheel
# The oldest TensorFlow's binary interface is NumPy 1's; GDAL is compiled against what is there.
case ",$extras," in
*,addons,*) $pip 'numpy<2' ;;
*) $pip numpy ;;
esac
$pip --no-build-isolation "gdal==$(gdal-config --version)"
$pip --editable ".${extras:+[$extras]}"
"$environment/bin/python" -c 'from osgeo import gdal_array' || {
    echo "GDAL's binding was built without NumPy; remove $environment and try again" >&2
    exit 1
}
echo "$wanted" >"$environment/made-from"
