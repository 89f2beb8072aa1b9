package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/audatex-relay/relay/internal/limits"
	"github.com/audatex-relay/relay/internal/store"
)

// Directory looks at the directory of the embedded store, without opening what is in it. Keys means that the settings
// have encryption keys, reached that a relay was found that may be the one that has locked the directory.
func Directory(dir string, keys, reached bool) []Check {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Check{Fine(Storage, "", dir+" does not exist yet; the first start makes it")}
	case err != nil || !info.IsDir():
		return []Check{Wrong(Storage, "", dir+" is not a directory that can be read", "correct RELAY_DATA_DIR")}
	}
	checks := []Check{DiskRoom(dir)}
	const write, execute = 2, 1 // of access(2)
	if err := syscall.Access(dir, write|execute); err != nil {
		checks = append(checks, Wrong(Storage, "", fmt.Sprintf("%s cannot be written: %v", dir, err),
			"give it to the user that the relay runs as"))
	}
	if !reached && locked(dir) {
		checks = append(checks, Wrong(Storage, "", "a relay runs on "+dir+", and was not reached",
			"give its address with --url; if it does not answer there either, look at its log"))
	}
	_, noKeys := os.Stat(filepath.Join(dir, store.KeyFile))
	_, noStore := os.Stat(filepath.Join(dir, "nats"))
	if noStore == nil && !keys && noKeys != nil {
		checks = append(checks, Wrong(Keys, "", "there is a store, and no keys for it",
			"put the key file back, or set RELAY_ENCRYPTION_KEYS"))
	}
	return checks
}

// locked reports whether a relay has locked the directory. It tries for no longer than it must: a relay that starts in
// that moment does not get the lock.
func locked(dir string) bool {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return false
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	_ = lock.Close() // releases the lock
	return errors.Is(err, syscall.EWOULDBLOCK)
}

// VendorHosts returns the addresses of the vendor that the relay calls, one of each host.
func VendorHosts(base, token string) []string {
	hosts := []string{base}
	a, errA := url.Parse(base)
	b, errB := url.Parse(token)
	if errA == nil && errB == nil && (a.Host != b.Host || a.Scheme != b.Scheme) {
		hosts = append(hosts, token)
	}
	return hosts
}

// InTheClear reports keys that cross a network in the clear, if they do.
func InTheClear(do bool) []Check {
	if !do {
		return nil
	}
	return []Check{Wrong(Settings, "RELAY_NATS_LISTEN", "subscribers from beyond this machine are served without TLS",
		"set RELAY_NATS_LISTEN_CERT and RELAY_NATS_LISTEN_KEY, or listen on 127.0.0.1 behind something that does TLS")}
}

// Descriptors looks whether there are enough file descriptors.
func Descriptors(parts limits.Shares) []Check {
	if !parts.Few() {
		return nil
	}
	finding := fmt.Sprintf("the limit of open files is low (%d): receivers that hang leave others few attempts",
		parts.Descriptors)
	return []Check{Wrong(Settings, "RLIMIT_NOFILE", finding,
		"raise it with `ulimit -n`, LimitNOFILE= of systemd, or the container's ulimits")}
}
