#!/bin/sh
# bench/hop.sh ROUNDS: calls over a head beside the direct call and NATS micro,
# interleaved, then the table. HOP_OUT keeps what was measured.
set -eu
cd "$(dirname "$0")"
rounds=${1:-5}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
go build -o "$out/hop" ./cmd/hop
results=${HOP_OUT:-$out/results}
: > "$results"
for _ in $(seq "$rounds"); do
  for size in 100 4096; do
    for p in direct head nats; do
      timeout 100 "$out/hop" unary -proto "$p" -size $size -conc 1 -n 2000
      timeout 100 "$out/hop" unary -proto "$p" -size $size -conc 64 -n 10000
    done
  done >> "$results"
done
"$out/hop" tables "$results"
