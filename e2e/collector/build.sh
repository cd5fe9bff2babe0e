#!/usr/bin/env bash
# Builds the Collector of manifest.yaml and prints the path of its binary, alone, on stdout.
#
# The binary is cached outside the clone under a name that is a hash of what it is made of, so a second run only
# prints the path and a changed manifest builds anew. It appears there by one rename: a build that was interrupted
# leaves nothing that looks finished, and two builds at once do no harm.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
manifest=$here/manifest.yaml
version=$(sed -n 's/^  version: //p' "$manifest")
cache=${WATTRIBUTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wattribute}
key=$({ cat "$manifest"; uname -sm; } | sha256sum | cut -c1-16)
binary=$cache/otelcol-$version-$key

if [[ -x $binary ]]; then
  echo "$binary"
  exit 0
fi

# Only what uses the network is tried again; a compile error would fail the same way three times.
retry() {
  local try
  for try in 1 2 3; do
    "$@" >&2 && return
    echo "try $try of 3 failed: $*" >&2
    sleep $((try * 5))
  done
  return 1
}

command -v go >/dev/null || { echo "building the Collector needs Go: https://go.dev/dl" >&2; exit 1; }
mkdir -p "$cache"
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work" # the manifest's output_path is relative to here, and no go.work or go.mod lies above

# A static binary, and no C compiler needed. GOFLAGS stays as the environment has it.
export CGO_ENABLED=0 GOWORK=off GOBIN=$work/bin
echo "building the OpenTelemetry Collector $version once (some minutes)" >&2
retry go install "go.opentelemetry.io/collector/cmd/builder@v$version"
retry bin/builder --config="$manifest" --skip-compilation
bin/builder --config="$manifest" --skip-generate --skip-get-modules >&2
mv otelcol/otelcol "$binary"
echo "$binary"
