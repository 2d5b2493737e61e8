package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// processStart is when the process started, as the system knows it to a
// hundredth of a second, or now where it cannot be told.
func processStart() time.Time {
	now := time.Now()
	stat, err1 := os.ReadFile("/proc/self/stat")
	uptime, err2 := os.ReadFile("/proc/uptime")
	if err1 != nil || err2 != nil {
		return now
	}
	// The command's name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	up := strings.Fields(string(uptime))
	if len(fields) < 20 || len(up) == 0 {
		return now
	}
	ticks, err1 := strconv.ParseFloat(fields[19], 64) // field 22: start in ticks of 10 ms since boot
	seconds, err2 := strconv.ParseFloat(up[0], 64)
	age := seconds - ticks/100
	if err1 != nil || err2 != nil || age < 0 || age > 3600 {
		return now
	}
	return now.Add(-time.Duration(age * float64(time.Second)))
}
