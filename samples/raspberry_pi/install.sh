#!/bin/sh
# Installs the reader beside this file as a service: sudo ./install.sh [GROUP], whose members may put images in (users).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
group=${1:-users}
home=/opt/edgepeft-reader
folder=/srv/edgepeft-reader

echo "== installing into $home"
mkdir -p "$home"
cp -r "$here/bundle" "$here/samples" "$home/"
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet --disable-pip-version-check "$(echo "$here"/edgepeft-*.whl)[onnxruntime,images]"

echo "== images go into $folder, by members of the group $group"
mkdir -p "$folder"
cp -rn "$here/start/." "$folder/"
chgrp -R "$group" "$folder"
chmod -R g+rwX "$folder"
find "$folder" -type d -exec chmod g+s {} +

echo "== starting the service"
sed "s/^SupplementaryGroups=.*/SupplementaryGroups=$group/" "$here/edgepeft-reader.service" \
    > /etc/systemd/system/edgepeft-reader.service
systemctl daemon-reload
systemctl enable --now edgepeft-reader.service
echo "== what it does: journalctl -fu edgepeft-reader"
