package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/audatex-relay/relay/internal/doctor"
	"github.com/audatex-relay/relay/internal/limits"
	"github.com/audatex-relay/relay/internal/settings"
)

type doctorCommand struct {
	settings.Serve
	URL       string `name:"url" placeholder:"http://127.0.0.1:8080" help:"Where the running relay's API is; by default this machine, at the port of RELAY_HTTP_ADDR."`
	JSON      bool   `name:"json" help:"Print the report as JSON."`
	Operators bool   `help:"Exit with 0 if only users and receivers have something to mend: consents and callbacks."`
	Complete  bool   `help:"Exit with 1 also if something could not be looked at."`
}

// Help describes how it examines.
func (doctorCommand) Help() string {
	return "Give it the settings of the relay. It asks the running relay by its API, with the administrator's token; " +
		"if none answers, it says so and checks what can be seen from the settings. It changes nothing. Exit code 1 " +
		"if anything is wrong."
}

// What the report above has: something to mend, or only something that could not be looked at.
var (
	errMustMend    = errors.New("something must be mended, see above")
	errNotExamined = errors.New("something could not be looked at, see above")
)

// Run prints what is wrong with a relay, and how to mend it.
func (c *doctorCommand) Run(p program) error {
	r := doctor.Report{At: time.Now().UTC(), Version: buildVersion()}
	for _, u := range p.unknown {
		r.Add(doctor.Wrong(doctor.Settings, u.Name, "it is no setting of the relay and has no effect",
			"correct its name; near is "+u.Nearest))
	}
	checked, err := c.Check()
	admins, tokenErr := c.ReadAdmins()
	reached := false
	switch address, wrong := c.address(); {
	case wrong != nil:
		return wrong
	case tokenErr != nil || len(admins) == 0:
		r.Add(doctor.Unknown(doctor.Relay, address, "it is not asked, as there is no admin token in the settings"))
	default:
		asked, failed := doctor.Ask(p.ctx, address, admins[0].Token)
		if why, ok := errors.AsType[*doctor.AskError](failed); ok {
			reached = why.Running
			r.Add(doctor.Wrong(doctor.Relay, "", why.Finding, why.Remedy))
		} else {
			r.At, r.Version, r.Replica = asked.At, asked.Version, asked.Replica
			r.Add(c.settings(err, true))
			r.Add(asked.Checks...)
			return c.report(p, r)
		}
	}
	r.Add(c.settings(err, false))
	if err == nil {
		c.checkWithoutRelay(p, checked, reached, &r)
	}
	for _, area := range []doctor.Area{doctor.Connections, doctor.Clients, doctor.Callbacks} {
		r.Add(doctor.Unknown(area, "", "only a running relay knows"))
	}
	return c.report(p, r)
}

// settings judges the settings of this command by the error that they give. They need not be those of a relay that was
// named by its address, and has given a report.
func (c *doctorCommand) settings(err error, reported bool) doctor.Check {
	switch {
	case err == nil:
		return doctor.Fine(doctor.Settings, "", "they can be used")
	case reported && c.URL != "":
		return doctor.Unknown(doctor.Settings, "",
			"of the relay they are not known; a relay would not start with those of this command: %v", err)
	}
	return doctor.Wrong(doctor.Settings, "", err.Error(), "correct it: a relay does not start with it")
}

func (c *doctorCommand) report(p program, r doctor.Report) error {
	r.Finish()
	write := r.Write
	if c.JSON {
		write = r.WriteJSON
	}
	if err := write(p.stdout); err != nil {
		return err
	}
	switch {
	case r.Sick(c.Operators):
		return errMustMend
	case c.Complete && r.Unlooked(c.Operators):
		return errNotExamined
	}
	return nil
}

// address returns where the relay's API is.
func (c *doctorCommand) address() (string, error) {
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
			u.RawQuery != "" || u.Path != "" && u.Path != "/" {
			return "", settings.Wrong("--url", "must be http:// or https:// with a host, and nothing behind it")
		}
		return u.Scheme + "://" + u.Host, nil
	}
	host, port, err := net.SplitHostPort(c.HTTPAddr)
	if err != nil {
		return "", settings.Wrong("RELAY_HTTP_ADDR", "is not host:port; give the relay's address with --url")
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// checkWithoutRelay checks what can be seen without a report of a running relay; reached means that something listens
// where it is expected.
func (c *doctorCommand) checkWithoutRelay(p program, checked settings.Config, reached bool, r *doctor.Report) {
	r.Add(doctor.InTheClear(checked.InTheClear())...)
	parts, err := limits.Divide(limits.Needs{
		Embedded: checked.NATSURL == "", Subscribers: checked.NATSListen != "", VendorRate: checked.AudatexRate,
		VendorTimeout: checked.AudatexTimeout.D(), Proxies: checked.Proxies,
	})
	if err != nil {
		r.Add(doctor.Wrong(doctor.Settings, "RLIMIT_NOFILE", err.Error(), "raise the limit"))
	} else {
		r.Add(doctor.Descriptors(parts)...)
	}
	if checked.NATSURL == "" {
		r.Add(doctor.Directory(checked.DataDir, len(checked.Keyset) > 0, reached)...)
	} else {
		r.Add(c.cluster(p)...)
	}
	for _, host := range doctor.VendorHosts(checked.AudatexBaseURL, checked.AudatexTokenURL) {
		r.Add(doctor.ReachVendor(p.ctx, host)...)
	}
}

// cluster looks at the streams in the cluster of the settings.
func (c *doctorCommand) cluster(p program) []doctor.Check {
	ctx, cancel := context.WithTimeout(p.ctx, toolPatience)
	defer cancel()
	p.ctx = ctx
	quiet := p
	quiet.unknown = nil
	given := settings.Tool{Store: c.Store, Log: c.Log}
	given.LogLevel = "error" // the report names what is wrong
	t, err := openTool(quiet, given, false)
	if err != nil {
		return []doctor.Check{
			doctor.Wrong(doctor.NATS, "", err.Error(), "look at the NATS servers, and at RELAY_NATS_URL and its login")}
	}
	defer t.close()
	return doctor.Streams(ctx, t.topo, t.js)
}
