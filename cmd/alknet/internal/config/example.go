package config

import _ "embed" // example.toml

// Example is a commented configuration that works as it stands.
//
//go:embed example.toml
var Example []byte
