#!/usr/bin/env bash
# ssh.sh ROUNDS: SSH, forwards and SOCKS of alknet beside OpenSSH, on loopback.
#
#   bash bench/ssh.sh 5
#   BENCH_MIB=512 BENCH_ONLY="cat conns" bash bench/ssh.sh 5   # a part: cat, forward, socks, conns
#
# Needs openssh-server. Keys and files are thrown away, servers stopped by their
# ids. Each round measures everyone once, in turn.
set -euo pipefail
cd "$(dirname "$0")"

rounds=${1:?usage: ssh.sh ROUNDS}
mib=${BENCH_MIB:-1024}
only=${BENCH_ONLY:-cat forward socks conns}
work=$(mktemp -d)
jobs=()
stop() {
	kill "${jobs[@]}" 2>/dev/null || true
	rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

go build -o "$work/" ./cmd/sshbench
b=$work/sshbench
ssh-keygen -q -t ed25519 -N '' -f "$work/id"
ssh-keygen -q -t ed25519 -N '' -f "$work/host"
head -c "$((mib << 20))" /dev/zero >"$work/big"
mkdir -p /run/sshd
cat >"$work/sshd.conf" <<CONF
ListenAddress 127.0.0.1:22010
HostKey $work/host
AuthorizedKeysFile $work/id.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
LogLevel ERROR
CONF
/usr/sbin/sshd -D -f "$work/sshd.conf" &
jobs+=($!)
"$b" serve -ssh 127.0.0.1:22020 -node 127.0.0.1:22021 -hostkey "$work/host" -auth "$work/id.pub" >"$work/node" &
jobs+=($!)
"$b" source -listen 127.0.0.1:22030 &
jobs+=($!)
sleep 1
node=$(cat "$work/node")
client=(ssh -q -F none -i "$work/id" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR)
gcm=(-c aes128-gcm@openssh.com)
"${client[@]}" "${gcm[@]}" -N -L 127.0.0.1:22041:127.0.0.1:22030 -D 127.0.0.1:22051 -p 22010 root@127.0.0.1 &
jobs+=($!)
"${client[@]}" -N -L 127.0.0.1:22045:127.0.0.1:22030 -D 127.0.0.1:22055 -p 22010 root@127.0.0.1 & # chacha20, its default
jobs+=($!)
"$b" front -node "$node" -over QUIC -listen 127.0.0.1:22042 -socks 127.0.0.1:22052 -to 127.0.0.1:22030 &
jobs+=($!)
"$b" front -node "$node" -over Mux -listen 127.0.0.1:22043 -socks 127.0.0.1:22053 -to 127.0.0.1:22030 &
jobs+=($!)
"${client[@]}" "${gcm[@]}" -N -L 127.0.0.1:22044:127.0.0.1:22030 -D 127.0.0.1:22054 -p 22020 root@127.0.0.1 &
jobs+=($!)
sleep 1

# timed ROUND NAME AMOUNT COMMAND...
timed() {
	local round=$1 name=$2 amount=$3 begin
	shift 3
	case " $only " in *" ${name%%/*} "*) ;; *) return 0 ;; esac
	begin=$(date +%s%N)
	timeout 120 "$@" >/dev/null || { echo "failed: $name" >&2; return 0; }
	echo "$round $name $((($(date +%s%N) - begin) / 1000))e-6 $amount" >>"$work/lines"
}

for round in $(seq "$rounds"); do
	for cipher in aes128-gcm@openssh.com chacha20-poly1305@openssh.com; do
		for who in "sshd 22010" "alknet 22020"; do
			timed "$round" "cat/${cipher%%-*}/${who% *}" "$mib" "${client[@]}" -c "$cipher" -p "${who#* }" root@127.0.0.1 cat "$work/big"
		done
	done
	for who in "ssh-L-default 22045" "ssh-L-gcm 22041" "ssh-L-gcm-to-alknet 22044" "tunnel-quic 22042" "tunnel-mux 22043"; do
		timed "$round" "forward/${who% *}" "$mib" "$b" pull -to "127.0.0.1:${who#* }" -n $((mib << 20))
	done
	for who in "ssh-D-default 22055" "ssh-D-gcm 22051" "ssh-D-gcm-to-alknet 22054" "tunnel-quic 22052" "tunnel-mux 22053"; do
		timed "$round" "socks/${who% *}" "$mib" "$b" pull -to 127.0.0.1:22030 -socks "127.0.0.1:${who#* }" -n $((mib << 20))
	done
	for who in "sshd 22010 60" "alknet 22020 600"; do
		read -r name port count <<<"$who"
		timed "$round" "conns/$name" "$count" "$b" conns -to "127.0.0.1:$port" -key "$work/id" -n "$count"
	done
done
# forward and socks stand beside the default cipher of the stock client; once more
# beside aes128-gcm, which it has to be asked for.
grep -E ' (forward|socks)/' "$work/lines" | grep -v -e -default | sed -E 's: (forward|socks)/: \1-gcm/:' >>"$work/lines.gcm" || true
cat "$work/lines.gcm" >>"$work/lines"
"$b" table "$work/lines"
