// Package counter is another branch's; this file only lets package store compile.
package counter

// Set stands for the CPU counters of a pod's containers.
type Set struct{ _ int }
