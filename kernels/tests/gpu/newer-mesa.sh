#!/bin/sh
# A Mesa whose software GPU multiplies matrices in one step (8×8×8 in f16, from 26.1 on), beside the system's: packages of a
# later Debian, unpacked into a folder with the C library that they were built for. Nothing of the system is changed.
#
# newer-mesa.sh FOLDER: fetches 63 MB from the mirror that this Debian uses, and writes FOLDER/run, which runs a program on it.
set -eu
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -Eo '[a-z]+://[^ ]+/debian/?( |$)' | head -n 1)
[ -n "$mirror" ] || { echo "this system's sources name no mirror of Debian"; exit 1; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
mkdir -p "$folder/state" "$folder/lists/partial" "$folder/cache/archives/partial"
: >"$folder/state/status"
for suite in trixie trixie-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$folder/sources"
apt() {
    apt-get -qq -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root \
        -o Dir::State="$folder/state" -o Dir::State::status="$folder/state/status" -o Dir::State::Lists="$folder/lists" \
        -o Dir::Etc::SourceList="$folder/sources" -o Dir::Etc::SourceParts=/dev/null -o Dir::Cache="$folder/cache" "$@"
}
apt update
apt install -y --download-only --no-install-recommends -t trixie-backports mesa-vulkan-drivers libvulkan1 >/dev/null
for package in "$folder"/cache/archives/*.deb; do dpkg -x "$package" "$folder/root"; done
lib=$folder/root/usr/lib/x86_64-linux-gnu
driver=$folder/root/usr/share/vulkan/icd.d/lvp_icd.json
sed -i "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$lib/libvulkan_lvp.so\"#" "$driver"
cat >"$folder/run" <<S
#!/bin/sh
export VK_DRIVER_FILES=$driver
exec $lib/ld-linux-x86-64.so.2 --library-path $lib "\$@"
S
chmod +x "$folder/run"
rm -rf "$folder/cache" "$folder/lists"
