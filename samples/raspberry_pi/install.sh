#!/bin/sh
# Installs the reader beside this file as a service: sudo ./install.sh [GROUP], whose members may put images in (users).
set -eu
umask 022  # the service is another user, and reads what is made here
here=$(cd "$(dirname "$0")" && pwd)
group=${1:-users}
home=/opt/edgepeft-reader
folder=/srv/edgepeft-reader

getent group "$group" > /dev/null || { echo "group $group: there is none; expected one that exists" >&2; exit 1; }

echo "== installing into $home"
mkdir -p "$home"
python3 -m venv "$home/venv"
wheel=$(ls "$here"/edgepeft-*.whl | tail -n 1)
"$home/venv/bin/pip" install --quiet --disable-pip-version-check "$wheel[onnxruntime,images]"
"$home/venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheel"
systemctl stop edgepeft-reader.service 2> /dev/null || true  # it may be learning with the bundle that is replaced
rm -rf "$home/bundle" "$home/samples"
cp -r "$here/bundle" "$here/samples" "$here/README.md" "$home/"
chmod -R a+rX "$home"  # cp keeps the modes of what was sent, which may be private

echo "== images go into $folder, by members of the group $group"
if [ ! -e "$folder" ]; then  # later, images that were moved or deleted would come back
    mkdir -p "$(dirname "$folder")"
    rm -rf "$folder.new"
    cp -r "$here/start" "$folder.new"
    mv "$folder.new" "$folder"
fi
chgrp -R "$group" "$folder"
chmod -R g+rwX "$folder"
find "$folder" -type d -exec chmod g+s {} +

echo "== starting the service"
sed "s/^SupplementaryGroups=.*/SupplementaryGroups=$group/" "$here/edgepeft-reader.service" \
    > /etc/systemd/system/edgepeft-reader.service
systemctl daemon-reload
systemctl enable edgepeft-reader.service
systemctl restart edgepeft-reader.service
sleep 8  # less than RestartSec, after which one that fails is active again
systemctl is-active --quiet edgepeft-reader.service || {
    echo "edgepeft-reader.service: stopped within 8 seconds; expected one that runs; why: journalctl -u edgepeft-reader" >&2
    exit 1
}
echo "== what it does: journalctl -fu edgepeft-reader"
