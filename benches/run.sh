#!/usr/bin/env bash
# The cost of a tick beside the bare system calls, in one run, and instruction counts that no other load changes.
# Root and a cgroup v2 mount are needed for the live part; what cannot run says so.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet
cargo bench --locked --quiet --bench tick -- live
if command -v valgrind >/dev/null; then
  bench=$(cargo bench --locked --bench tick --no-run --message-format=json 2>/dev/null |
    python3 -c 'import json,sys
for line in sys.stdin:
    found = json.loads(line)
    if found.get("executable") and found["target"]["name"] == "tick": print(found["executable"])')
  count() { # instructions of the whole program for $1 with $2 rounds
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bench" "$1" "$2" 2>&1 |
      sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
  }
  echo
  echo "instructions (callgrind, user space; the difference of two runs)"
  for what in idle busy20 busy200 encode; do
    few=$(count "$what" 5)
    many=$(count "$what" 25)
    printf '  %-8s %12d per round\n' "$what" $(((many - few) / 20))
  done
else
  echo "skipped: instruction counts need valgrind"
fi
