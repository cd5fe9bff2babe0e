#!/usr/bin/env bash
# Builds real components that the end-to-end tests talk to, and prints the paths of their binaries on stdout: one line
# for each name, in the order given, and nothing else.
#
#     build.sh NAME…     otelcol etcd kube-apiserver kube-controller-manager kube-scheduler kubelet helm prometheus promtool
#
# A binary is cached outside the clone under a name with its version and a hash of what it is made from, so a second run
# only prints the path and a changed recipe builds anew. It appears there by one rename: a build that was interrupted
# leaves nothing that looks finished, and two builds at once do no harm. Components of one source that are asked for
# together are built together. What is built is static and stripped; only etcd is Debian's, unpacked but not installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WATTRIBUTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wattribute}

collector=$(sed -n 's/^  version: //p' "$here/collector.yaml")
kubernetes=1.36.3
helm=4.3.1
prometheus=3.9.1 # as a Go module 0.309.1
debian=$(. /etc/os-release && echo "$ID$VERSION_ID") # a mirror has one etcd for each release of Debian

# describe NAME : sets recipe, version and manifest.
describe() {
  manifest=/dev/null
  case $1 in
    otelcol) recipe=otelcol version=$collector manifest=$here/collector.yaml ;;
    kube-apiserver | kube-controller-manager | kube-scheduler | kubelet) recipe=kubernetes version=$kubernetes ;;
    helm) recipe=helm version=$helm ;;
    prometheus | promtool) recipe=prometheus version=$prometheus ;;
    etcd) recipe=etcd version=$debian ;;
    *) echo "no such component: $1" >&2; return 1 ;;
  esac
}

# path NAME : where the binary is, or will be. The hash is of the recipe, the manifest and the machine.
path() {
  local recipe version manifest
  describe "$1"
  echo "$cache/$1-$version-$(
    { declare -f "build_$recipe" compile directory; cat "$manifest"; uname -sm; } | sha256sum | cut -c1-16
  )"
}

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

# compile LDFLAGS PACKAGE… : binaries in the working directory, from the module there. Listing what the packages are
# made of fetches it, so that the build itself needs no network.
compile() {
  local ldflags=$1
  shift
  retry go list -mod=mod -deps -f '{{""}}' "$@"
  go build -mod=mod -buildvcs=false -trimpath -ldflags "-s -w $ldflags" -o "$work/" "$@" >&2
}

# directory MODULE@VERSION : where its source lies, once it is downloaded.
directory() {
  go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}

build_otelcol() {
  GOBIN=$work/bin retry go install "go.opentelemetry.io/collector/cmd/builder@v$collector"
  # The manifest's output_path is relative to here.
  retry bin/builder --config="$here/collector.yaml" --skip-compilation
  bin/builder --config="$here/collector.yaml" --skip-generate --skip-get-modules >&2
  mv otelcol otelcol.d
  mv otelcol.d/otelcol .
}

# Kubernetes is released as one module whose parts ("staging") are read from its own tree. The proxy has the parts as
# modules too, so a copy of its go.mod that names those can build its commands.
build_kubernetes() {
  local staging=0.${kubernetes#*.} prefix=k8s.io/component-base/version minor=${kubernetes#*.}
  retry go mod download "k8s.io/kubernetes@v$kubernetes"
  sed -e "s,^module k8s.io/kubernetes$,module components," \
    -e "s,=> \./staging/src/\(k8s.io/[^ ]*\)$,=> \1 v$staging," \
    -e "0,/^require ($/s,,require (\n\tk8s.io/kubernetes v$kubernetes," \
    "$(directory "k8s.io/kubernetes@v$kubernetes")/go.mod" >go.mod
  compile "-X $prefix.gitVersion=v$kubernetes -X $prefix.gitMajor=${kubernetes%%.*} -X $prefix.gitMinor=${minor%%.*} \
    -X $prefix.gitTreeState=clean" "${@/#/k8s.io/kubernetes/cmd/}"
}

build_helm() {
  go mod init components 2>/dev/null
  retry go get "helm.sh/helm/v4@v$helm"
  compile "-X helm.sh/helm/v4/internal/version.version=v$helm" helm.sh/helm/v4/cmd/helm
}

# Built from a copy of the module, without the discovery of targets in clouds, which is a third of the source. The web
# pages are no part of the module.
build_prometheus() {
  local minor=${prometheus#*.} version
  version=v0.$(printf '%d%02d.%d' "${prometheus%%.*}" "${minor%.*}" "${minor#*.}")
  retry go mod download "github.com/prometheus/prometheus@$version"
  cp -r --no-preserve=mode "$(directory "github.com/prometheus/prometheus@$version")" source
  rm source/plugins/plugins.go
  cd source
  compile "-X github.com/prometheus/common/version.Version=$prometheus" "${@/#/./cmd/}"
}

build_etcd() {
  local sudo=()
  [[ $(id -u) -eq 0 ]] || sudo=(sudo -n)
  retry "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=120 update -q
  chmod 755 . # apt may download as a user of its own
  retry apt-get download -q etcd-server
  dpkg-deb -x etcd-server_*.deb tree
  mv tree/usr/bin/etcd .
}

# build RECIPE NAME… : runs a recipe in a directory of its own and moves the binaries it leaves there to the cache.
build() {
  local recipe=$1 name
  shift
  if [[ $recipe != etcd ]]; then
    command -v go >/dev/null || { echo "building $* needs Go: https://go.dev/dl" >&2; return 1; }
  fi
  echo "building $* once (minutes)" >&2
  work=$(mktemp -d "$cache/build.XXXXXX")
  cd "$work" # no go.work or go.mod lies above
  "build_$recipe" "$@"
  for name in "$@"; do
    mv "$work/$name" "$(path "$name")"
  done
  cd "$cache"
  rm -rf "$work"
  work=
}

[[ $# -gt 0 ]] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for name in "$@"; do path "$name" >/dev/null; done
mkdir -p "$cache"
work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT
# A static binary, and no C compiler needed. GOFLAGS stays as the environment has it.
export CGO_ENABLED=0 GOWORK=off

declare -A missing=()
for name in "$@"; do
  [[ -x $(path "$name") ]] && continue
  describe "$name"
  missing[$recipe]+=" $name"
done
for recipe in "${!missing[@]}"; do
  # shellcheck disable=SC2086 # a list of names
  build "$recipe" ${missing[$recipe]}
done
for name in "$@"; do path "$name"; done
