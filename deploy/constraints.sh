#!/bin/sh
# Writes constraints.txt: the versions that the bounds of pyproject.toml resolve to today, extras together.
# All but `tensorflow`: it wants an older h5py than sionna does, and so an environment of its own.
set -eu
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check -e '.[twin,geometry,train,reference,csi,cluster,dev]'
{
    echo "# Made by 'make constraints': what 'make setup' and 'make setup-all' install. Bounds stand in pyproject.toml."
    "$folder/venv/bin/pip" freeze --exclude-editable | sed 's/+cpu$//' | LC_ALL=C sort -f
} >constraints.txt
