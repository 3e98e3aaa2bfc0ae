// Package config reads the program's one TOML file into the settings of the
// libraries. It never stops at the first problem: every unknown key, wrong type
// and bad value is reported with its line and column.
package config
