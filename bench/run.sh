#!/usr/bin/env bash
# run.sh ROUNDS: measures all stacks side by side and prints the tables.
#
#   bash bench/run.sh 5
#   BENCH_ONLY="bulk idle" bash bench/run.sh 9   # bulk, hs, streams, idle
#   BENCH_OUT=lines.json bash bench/run.sh 5     # keep what was measured
#
# A round measures every stack once and takes one to two minutes; every other
# round goes through the stacks in reverse, so that a machine that slows down
# or speeds up favours none. Handshakes have six shorter rounds for each of the
# others, in which the stacks take turns of 50. Loopback only. A measurement that
# hangs is ended after 90 seconds, with its server: that one ends with its
# standard input.
set -euo pipefail
cd "$(dirname "$0")"

rounds=${1:?usage: run.sh ROUNDS}
only=${BENCH_ONLY:-bulk hs streams idle}
work=$(mktemp -d)
out=${BENCH_OUT:-$work/lines}
job=
trap 'kill $job 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

go build -o "$work/" ./cmd/conn ./cmd/summ
# 10,000 connections over TCP need as many files.
ulimit -n "$(ulimit -Hn)" || true

# measured WHAT: whether that is asked for.
measured() {
	case " $only " in *" $1 "*) ;; *) return 1 ;; esac
}

# run ARGUMENTS...: one measurement.
run() {
	timeout 90 "$work/conn" "$@" >>"$out" &
	job=$!
	wait "$job" || echo "failed: $*" >&2
}

# each MEASUREMENT STACKS ARGUMENTS...: the measurement of each stack in turn.
each() {
	local what=$1 stacks=$2 stack
	shift 2
	measured "$what" || return 0
	if [ $((round % 2)) = 0 ]; then
		stacks=$(tr ' ' '\n' <<<"$stacks" | tac | tr '\n' ' ')
	fi
	for stack in $stacks; do
		run "$what" -stack "$stack" "$@"
	done
}

# turns ARGUMENTS...: the handshakes of all stacks.
turns() {
	measured hs || return 0
	run turns -rounds $((6 * rounds)) "$@" quic quic-verify quic-mtls alknet-quic tls alknet-raw alknet-mux
}

for round in $(seq "$rounds"); do
	echo "round $round" >>"$out"
	echo "round $round of $rounds" >&2
	each bulk "quic alknet-quic tls alknet-raw alknet-mux" -mib 512
	each streams "quic alknet-quic alknet-mux" -n 10000 -conc 1
	each streams "quic alknet-quic alknet-mux" -n 30000 -conc 16
	each idle "quic quic-mtls alknet-quic tls alknet-raw alknet-mux" -n 1000
	each idle "quic quic-mtls alknet-quic" -n 10000
done
turns -mode full -n 50
turns -mode full -n 50 -conc 8
turns -mode resumed -n 50
"$work/summ" "$out"
