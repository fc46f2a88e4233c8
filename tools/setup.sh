#!/bin/sh
# setup.sh - installs what building sdc needs and this machine lacks (Debian, Ubuntu).
#
# As root, or through sudo. Does nothing, and needs no rights, when all is there.
set -u

packages=
need() { packages="$packages $*"; }
lib() { pkg-config --exists "$1" 2>/dev/null || need "$2"; }

echo 'int main(void) { return 0; }' | cc -fopenmp -x c -o /dev/null - 2>/dev/null ||
    need gcc libc6-dev
command -v make >/dev/null || need make
command -v pkg-config >/dev/null || need pkg-config
lib jansson libjansson-dev
lib libutf8proc libutf8proc-dev
lib zlib zlib1g-dev
lib libcrypto libssl-dev
lib stb libstb-dev
lib libwebp libwebp-dev
lib libmicrohttpd libmicrohttpd-dev
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "setup.sh: missing:$packages" >&2
    echo "setup.sh: these are Debian's names; install the like with this system's package manager:" >&2
    echo "setup.sh: a C compiler with OpenMP, make, pkg-config, and the development files of" >&2
    echo "setup.sh: jansson, utf8proc, zlib, OpenSSL, stb, (for WebP pictures) libwebp and (for the page" >&2
    echo "setup.sh: that edits tags) libmicrohttpd" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null ||
        { echo "setup.sh: run as root: apt-get install$packages" >&2; exit 1; }
    sudo=sudo
fi
echo "installing:$packages"
apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >/dev/null; }
# shellcheck disable=SC2086
if ! { apt update && apt install -y --no-install-recommends $packages; }; then
    echo "setup.sh: apt-get could not install:$packages" >&2
    exit 1
fi
