#!/bin/sh
# bench/idle.sh ALKNET [SECONDS]: what nodes cost that do nothing. "head" has every
# section, and a link to "worker" for calls and one for its SOCKS proxy; "alone" has
# every section and knows a peer that is not there. CPU is what the scheduler counted
# for all threads.
set -eu
alknet=$1
seconds=${2:-60}
dir=$(mktemp -d)
export XDG_RUNTIME_DIR="$dir" HOME="$dir"
pids=
trap 'kill $pids 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

node() { name=$1; shift; "$alknet" --dir "$dir/$name" "$@"; }
sections() { # name: on a free port, with the sections that init leaves out
  node "$1" init --dev -q > /dev/null
  sed -i 's/127.0.0.1:4433/127.0.0.1:0/; /^test_namespace/d' "$dir/$1/alknet.toml"
  printf '[admin]\nlisten = "127.0.0.1:0"\n' >> "$dir/$1/alknet.toml"
}
serve() {
  "$alknet" --dir "$dir/$1" serve > "$dir/$1.out" 2> "$dir/$1.log" &
  pids="$pids $!"
  node "$1" --timeout 30s status --wait ready > /dev/null
}
socks() { printf '[socks]\nlisten = "127.0.0.1:0"\npeer = "worker"\n' >> "$dir/$1/alknet.toml"; }
counters() { # of a process: nanoseconds of CPU and context switches so far
  cat /proc/"$1"/task/*/schedstat | awk '{ n += $1 } END { printf "%.0f\n", n }'
  cat /proc/"$1"/task/*/status | awk '/ctxt_switches/ { n += $2 } END { print n }'
}

sections alone; sections head; sections worker
node worker peer add head "$(node head id)" --can node:read --can ssh:forward > /dev/null
serve worker
to=$(sed -n 's/.*id=\([a-z0-9]*\).* udp=\([0-9.:]*\).*/\1@\2/p' "$dir/worker.out")
node alone peer add worker "${to%@*}" > /dev/null
node head peer add worker "$to" --import '*' > /dev/null
socks alone; socks head
serve alone; serve head
until node head --json status | grep -q '"operations":\["node/'; do sleep 1; done
sleep 5 # what a start leaves to do

# shellcheck disable=SC2086 # a list
set -- $pids
for p in "$@"; do counters "$p"; done > "$dir/before"
sleep "$seconds"
for p in "$@"; do counters "$p"; done > "$dir/after"
paste "$dir/before" "$dir/after" | awk -v s="$seconds" '
  BEGIN { split("worker alone head", name, " ") }
  NR % 2 == 1 { cpu = ($2 - $1) / s / 1e7; next }
  { printf "%-6s  CPU %.3f %%, %.1f context switches/s\n", name[NR / 2], cpu, ($2 - $1) / s }'
for p in "$@"; do awk '/^VmRSS/ { printf "resident %.1f MB\n", $2 / 1000 }' /proc/"$p"/status; done
