#!/bin/bash
# Runs tests in a Debian 13 root (Python 3.13, OpenSSL 3.5): what the box's image is made of. `tests/trixie.sh [pytest words]`; as root.
#
# The root is made once from the host's own Debian mirror and kept in build/trixie; with its own copy of the code, so that neither side's
# compiled files or environment touch the other's. XACBE_TRIXIE_ROOT: another place for it.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
root=${XACBE_TRIXIE_ROOT:-$here/build/trixie}
packages="python3 python3-venv python3-dev gcc libc6-dev make git pkg-config libtss2-dev softhsm2 p11-kit p11-kit-modules opensc swtpm swtpm-tools
  tpm2-tools mosquitto mosquitto-clients openssl curl procps strace xmlsec1 unzip chromium-headless-shell nginx-light wrk ca-certificates
  openssh-client openssh-server python3-swift"
words=$(echo $packages)

for tool in mmdebstrap bwrap; do
  command -v $tool >/dev/null || { echo "not installed: $tool" >&2; exit 2; }
done

inside() {  # a root of its own with the host's network: packages come through the host's own settings
  bwrap --bind "$root" / --dev /dev --proc /proc --perms 1777 --tmpfs /tmp --tmpfs /run --ro-bind-try /etc/resolv.conf /etc/resolv.conf \
    --ro-bind-try /etc/pip.conf /etc/pip.conf --ro-bind-try /opt /opt --ro-bind-try /etc/ssl/certs /etc/ssl/certs \
    --ro-bind-try "$here/../shared" /shared --setenv DEBIAN_FRONTEND noninteractive --unshare-pid --die-with-parent --chdir /xacbe "$@"
}

if [ ! -e "$root/.packages" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | sort -u | head -n 1)
  mkdir -p "$(dirname "$root")"
  rm -rf "$root"
  mmdebstrap --quiet --mode=root --variant=apt --include="${words// /,}" trixie "$root" "$mirror"
  echo "$words" > "$root/.packages"
fi
mkdir -p "$root/xacbe"
find "$root/xacbe" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
tar -C "$here" --exclude=./.venv --exclude=./build --exclude=__pycache__ --exclude='./.*_cache' -cf - . | tar -C "$root/xacbe" -xf -

if [ "$(cat "$root/.packages")" != "$words" ]; then
  inside apt-get -qq update
  inside apt-get -qq install -y --no-install-recommends $words > /dev/null
  echo "$words" > "$root/.packages"
fi
locked=$(sha256sum < "$here/tests/requirements.lock")
if [ "$(cat "$root/.locked" 2>/dev/null)" != "$locked" ]; then
  inside /bin/sh -c 'python3 -m venv --clear .venv && .venv/bin/pip install --quiet --require-hashes -r tests/requirements.lock'
  inside .venv/bin/pip install --quiet --no-deps -e .
  echo "$locked" > "$root/.locked"
fi
inside .venv/bin/python -c 'import ssl, sys; print("Python", sys.version.split()[0], ssl.OPENSSL_VERSION)'
inside --unshare-net .venv/bin/python -m pytest "$@"  # a loopback of its own: its laboratories meet nobody else's
