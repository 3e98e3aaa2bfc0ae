package vault

// bech32Digits are the values 0 to 31 (BIP-173).
const bech32Digits = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

// bech32 encodes data with a lower-case prefix (BIP-173). age takes keys only as
// such text, of any length.
func bech32(prefix string, data []byte) string {
	values := regroup(data)
	sum := bech32Sum(prefix, values)
	text := make([]byte, 0, len(prefix)+1+len(values)+len(sum))
	text = append(append(text, prefix...), '1')
	for _, v := range append(values, sum[:]...) {
		text = append(text, bech32Digits[v])
	}
	clear(values)
	defer clear(text)
	return string(text)
}

// regroup turns bytes into groups of five bits, the last one filled up with zeros.
func regroup(data []byte) []byte {
	out := make([]byte, 0, (len(data)*8+4)/5+6) // and room for the checksum
	acc, bits := uint(0), 0
	for _, b := range data {
		acc, bits = acc<<8|uint(b), bits+8
		for bits >= 5 {
			bits -= 5
			out = append(out, byte(acc>>bits)&31)
		}
		acc &= 1<<bits - 1
	}
	if bits > 0 {
		out = append(out, byte(acc<<(5-bits))&31)
	}
	return out
}

// bech32Sum is the checksum of BIP-173.
func bech32Sum(prefix string, values []byte) [6]byte {
	chk := uint32(1)
	step := func(v byte) {
		top := chk >> 25
		chk = chk&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				chk ^= g
			}
		}
	}
	for i := range len(prefix) {
		step(prefix[i] >> 5)
	}
	step(0)
	for i := range len(prefix) {
		step(prefix[i] & 31)
	}
	for _, v := range values {
		step(v)
	}
	for range 6 {
		step(0)
	}
	chk ^= 1
	var sum [6]byte
	for i := range sum {
		sum[i] = byte(chk>>(5*(5-i))) & 31
	}
	return sum
}
