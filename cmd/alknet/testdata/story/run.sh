#!/usr/bin/env bash
# Two machines: "home" is reached from outside, "bob" sits behind NAT and dials
# out. Each is a network namespace, the router between them a third. Needs root,
# ip and nft; elsewhere it says so and does nothing.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null || ! command -v nft >/dev/null; then
	echo "skipped: it needs root, ip (iproute2) and nft (nftables)"
	exit 0
fi

tag=alk$$
dir=$(mktemp -d)
pids=()
cleanup() {
	local p ns
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	for ns in home nat bob; do # a job here is a shell, whose program lives in a namespace
		ip netns pids "$tag-$ns" 2>/dev/null | xargs -r kill 2>/dev/null || true
	done
	wait
	for ns in home nat bob; do ip netns del "$tag-$ns" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap cleanup EXIT
in_ns() { ip netns exec "$tag-$1" "${@:2}"; }

for ns in home nat bob; do
	ip netns add "$tag-$ns"
	in_ns "$ns" ip link set lo up
done
ip link add "h$$" netns "$tag-home" type veth peer name "o$$" netns "$tag-nat"
ip link add "b$$" netns "$tag-bob" type veth peer name "i$$" netns "$tag-nat"
in_ns home ip addr add 192.0.2.7/24 dev "h$$"
in_ns nat ip addr add 192.0.2.1/24 dev "o$$"
in_ns nat ip addr add 10.9.0.1/24 dev "i$$"
in_ns bob ip addr add 10.9.0.2/24 dev "b$$"
in_ns home ip link set "h$$" up
in_ns bob ip link set "b$$" up
in_ns nat ip link set "o$$" up
in_ns nat ip link set "i$$" up
in_ns bob ip route add default via 10.9.0.1
in_ns nat sysctl -q -w net.ipv4.ip_forward=1
in_ns nat nft -f - <<NFT
table ip nat {
	chain out { type nat hook postrouting priority 100; oifname "o$$" masquerade; }
}
table ip filter {
	chain in { type filter hook forward priority 0; iifname "o$$" ct state new drop; }
}
NFT

CGO_ENABLED=0 go build -trimpath -o "$dir/alknet" ./cmd/alknet
echo "correct horse battery staple" >"$dir/pass"
chmod 600 "$dir/pass"
home() { in_ns home "$dir/alknet" --dir "$dir/home" --unlock "file:$dir/pass" "$@"; }
bob() { in_ns bob "$dir/alknet" --dir "$dir/bob" --unlock "file:$dir/pass" "$@"; }

begin=$SECONDS
home -q -y init >"$dir/home.words"
sed -i 's/^allow ssh:forward dial   tcp \*:80,443$/allow ssh:forward dial tcp 127.0.0.1:8000/' "$dir/home/alknet.toml"
home serve >"$dir/home.log" 2>&1 &
pids+=($!)
home --timeout 20s status --wait ready >/dev/null
ticket=$(home invite --name bob --can ssh:shell --can ssh:forward --for 1h)
case $ticket in alknet://*@192.0.2.7:4433/*) ;; *) echo "the ticket names another address: $ticket"; exit 1 ;; esac

bob -q -y init >"$dir/bob.words"
sed -i 's/^listen = .*/listen = ["127.0.0.1:4433"]\ntest_namespace = true/' "$dir/bob/alknet.toml"
bob join "$ticket" --as home
bob serve >"$dir/bob.log" 2>&1 &
pids+=($!)
bob --timeout 20s status --wait ready >/dev/null

want() { # what, text, command...
	local what=$1 text=$2 out
	shift 2
	for _ in $(seq 50); do
		if out=$("$@" 2>&1) && [[ $out == *"$text"* ]]; then
			echo "ok: $what"
			return 0
		fi
		sleep 0.2
	done
	printf 'FAIL: %s\n%s\n' "$what" "$out"
	cat "$dir/home.log" "$dir/bob.log"
	exit 1
}
want "call home" '"operations"' bob call services/list@home
want "home sees bob up, though nobody can dial him" "bob" bash -c "ip netns exec $tag-home $dir/alknet --dir $dir/home status | grep -E '^bob +up'"
want "ssh home" "it works" bob ssh home echo it works

printf 'HTTP/1.0 200 OK\r\n\r\na page at home\n' >"$dir/page"
in_ns home bash -c "cd $dir && exec python3 -m http.server -b 127.0.0.1 8000" >/dev/null 2>&1 &
pids+=($!)
bob forward home -L 127.0.0.1:8080:127.0.0.1:8000 >/dev/null 2>&1 &
pids+=($!)
bob socks home 127.0.0.1:1080 >/dev/null 2>&1 &
pids+=($!)
want "forward" "a page at home" in_ns bob curl -sS --max-time 5 http://127.0.0.1:8080/page
want "socks" "a page at home" in_ns bob curl -sS --max-time 5 --proxy socks5h://127.0.0.1:1080 http://127.0.0.1:8000/page
if in_ns home curl -sS --max-time 2 http://10.9.0.2:4433/ >/dev/null 2>&1; then
	echo "FAIL: the NAT lets connections in"
	exit 1
fi
echo "two machines, one behind NAT: $((SECONDS - begin)) s"
