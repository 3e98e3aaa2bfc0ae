package ssh

import xssh "golang.org/x/crypto/ssh"

// version is what both roles say they are.
const version = "SSH-2.0-alknet"

// keyDSA is the type of keys that are refused everywhere.
const keyDSA = "ssh-dss"

// algorithms are those of both roles, best first, without SHA-1, CBC and DSA.
// The library's own defaults still have some of these. The MACs without ETM are
// for libssh2.
func algorithms() xssh.Config {
	return xssh.Config{
		KeyExchanges: []string{xssh.KeyExchangeMLKEM768X25519, xssh.KeyExchangeCurve25519, xssh.KeyExchangeDH16SHA512},
		Ciphers: []string{
			xssh.CipherAES128GCM, xssh.CipherAES256GCM, xssh.CipherChaCha20Poly1305, xssh.CipherAES256CTR, xssh.CipherAES128CTR,
		},
		MACs: []string{xssh.HMACSHA256ETM, xssh.HMACSHA512ETM, xssh.HMACSHA256, xssh.HMACSHA512},
	}
}

// userKeyAlgorithms are the signatures with which a user may log in.
func userKeyAlgorithms() []string {
	return []string{
		xssh.KeyAlgoED25519, xssh.KeyAlgoSKED25519, xssh.KeyAlgoSKECDSA256, xssh.KeyAlgoECDSA256, xssh.KeyAlgoECDSA384, xssh.KeyAlgoECDSA521,
		xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256,
	}
}

// hostKeyAlgorithms are those that a client of ours takes, certificates first.
func hostKeyAlgorithms() []string {
	return []string{
		xssh.CertAlgoED25519v01, xssh.CertAlgoECDSA256v01, xssh.CertAlgoECDSA384v01, xssh.CertAlgoECDSA521v01, xssh.CertAlgoRSASHA512v01,
		xssh.CertAlgoRSASHA256v01,
		xssh.KeyAlgoED25519, xssh.KeyAlgoECDSA256, xssh.KeyAlgoECDSA384, xssh.KeyAlgoECDSA521, xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256,
	}
}
