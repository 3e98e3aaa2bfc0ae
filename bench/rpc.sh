#!/bin/sh
# bench/rpc.sh ROUNDS: unary calls and streams of items, all stacks interleaved,
# then the tables. RPC_PEERS names the stacks, RPC_OUT keeps what was measured.
set -eu
cd "$(dirname "$0")"
rounds=${1:-5}
peers=${RPC_PEERS:-grpc connect-h2 connect-h3 drpc nats alknet-quic alknet-quic-typed alknet-quic-bytes alknet-raw}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
go build -o "$out/rpc" ./cmd/rpc
results=${RPC_OUT:-$out/results}
: > "$results"
for _ in $(seq "$rounds"); do
  for p in $peers; do
    for size in 100 4096; do
      timeout 100 "$out/rpc" unary -proto "$p" -size $size -conc 1 -n 6000 -warm 1000
      [ "$p" = drpc ] || timeout 100 "$out/rpc" unary -proto "$p" -size $size -conc 64 -n 20000 -warm 3000
    done
    case $p in connect*) items=60000 ;; *) items=300000 ;; esac
    [ "$p" = nats ] || timeout 100 "$out/rpc" stream -proto "$p" -size 100 -n $items
    [ "$p" = nats ] || timeout 100 "$out/rpc" stream -proto "$p" -size 65536 -n 4000
  done >> "$results"
done
"$out/rpc" tables "$results"
