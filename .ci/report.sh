#!/usr/bin/env bash
# The HTML pages in parsers that are not ours, and in Debian's Chromium where it is there or can be installed.
#   .ci/report.sh TASKVEC
set -euo pipefail
cd "$(dirname "$0")/.."
found() { for c in "${CHROMIUM:-}" chromium chromium-browser chromium-headless-shell google-chrome; do command -v "$c" && return; done; return 1; }
if ! found > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core) > /dev/null 2>&1 ||
    echo "report: apt-get could not install chromium-headless-shell" >&2
fi
python3 tests/python/check_report.py "$1"
