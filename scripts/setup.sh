#!/bin/sh
# Sets up everything robolearn needs: system packages (as root, or says what to ask root for), .venv, pinned packages.
set -eu
python=${1:-python3}
cd "$(dirname "$0")/.."

missing=""
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
ldconfig -p 2>/dev/null | grep -q 'libEGL\.so' || ldconfig -p 2>/dev/null | grep -q 'libOSMesa' || missing="$missing libegl1 libopengl0 libgl1 libgl1-mesa-dri"
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "setup: installing system packages:$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    echo "setup: installing system packages with sudo:$missing"
    sudo apt-get update -qq
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
  else
    echo "setup: these system packages are missing and need root:  sudo apt-get install$missing" >&2
    case "$missing" in *python3-venv*) exit 1 ;; esac
    echo "setup: going on without images and videos" >&2
  fi
fi

"$python" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: Python 3.11 or newer is needed, this is {sys.version.split()[0]}; run: make PYTHON=python3.11 ...")
PY
[ -x .venv/bin/pip ] || "$python" -m venv .venv
echo "setup: installing Python packages (about a minute)"
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
touch .venv/.stamp
