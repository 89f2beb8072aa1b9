package limits

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// unlimited is what a cgroup's limit is above when there is none: version 1 writes the largest
// number of whole pages.
const unlimited = 1 << 60

// cgroupMemory returns nine tenths of the memory that the process's cgroup and those above it
// allow, 0 without a limit. The rest is for what Go does not count, such as the kernel's buffers of
// sockets.
func cgroupMemory(root fs.FS) int64 {
	lines, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(0)
	look := func(file string) {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n > 0 && n < unlimited && (least == 0 || n < least) {
			least = n
		}
	}
	for line := range strings.Lines(string(lines)) {
		hierarchy := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(hierarchy) != 3 {
			continue
		}
		var mount string
		var files []string
		switch {
		case hierarchy[0] == "0" && hierarchy[1] == "":
			mount, files = "sys/fs/cgroup", []string{"memory.max", "memory.high"}
		case hierarchy[1] == "memory":
			mount, files = "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		default:
			continue
		}
		for at := path.Clean("/" + hierarchy[2]); ; at = path.Dir(at) {
			for _, file := range files {
				look(path.Join(mount, at, file))
			}
			if at == "/" {
				break
			}
		}
	}
	return least / 10 * 9
}
