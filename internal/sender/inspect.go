package sender

import (
	"bytes"
	"crypto/x509"
	"net/http"
	"strings"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/signature"
)

// What is shown of certificates. They are chosen by the receiver.
const (
	maxCertificates = 8
	maxNames        = 50 // of one certificate
)

// Inspection is what a test of a callback shows of an attempt beside its result. Deliveries have
// none. It holds no secret.
type Inspection struct {
	Method, URL string       // of the request; the URL without its secrets, as relay.RedactURL shows it
	Headers     []HeaderLine // of the request as it was sent, secrets redacted; none if nothing was sent

	// Certificates are those that the receiver presented, its own first, also if they were refused.
	Certificates []Certificate

	Token time.Duration // waiting for an access token
}

// HeaderLine is one line of a header.
type HeaderLine struct{ Name, Value string }

// Certificate is what is shown of a certificate.
type Certificate struct {
	Subject, Issuer     string
	NotBefore, NotAfter time.Time
	Names               []string // the hosts it is for
}

// sending notes the request that is about to be sent.
func (i *Inspection) sending(r *Request, head []byte) {
	i.Method, i.URL, i.Headers = http.MethodPost, relay.RedactURL(r.URL), nil
	own := make(map[string]bool, len(r.Headers))
	for name := range r.Headers {
		own[http.CanonicalHeaderKey(name)] = true
	}
	_, head, _ = bytes.Cut(head, []byte("\r\n")) // the request line has the whole URL
	for line := range strings.SplitSeq(string(bytes.TrimSuffix(head, []byte("\r\n"))), "\r\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch scheme, _, found := strings.Cut(value, " "); {
		case name == "Authorization" && found && !own[name]:
			value = scheme + " " + relay.RedactionMark
		case own[name], name == "Authorization", name == "Proxy-Authorization":
			value = relay.RedactionMark
		case name == signature.HeaderSignature:
			value = strings.TrimSuffix(strings.Repeat("v1,"+relay.RedactionMark+" ", len(strings.Fields(value))), " ")
		}
		i.Headers = append(i.Headers, HeaderLine{name, value})
	}
}

// connected notes the certificates of a connection.
func (i *Inspection) connected(c *conn) {
	if c.receiver != nil {
		i.note(c.receiver.ConnectionState().PeerCertificates)
	}
}

// refused notes the receiver's certificates that a connection failed for.
func (i *Inspection) refused(err error) {
	if refused := refusedCertificates(err); len(refused) > 0 {
		i.note(refused)
	}
}

func (i *Inspection) note(certificates []*x509.Certificate) {
	i.Certificates = nil
	for _, c := range certificates[:min(len(certificates), maxCertificates)] {
		shown := Certificate{
			Subject: printable(c.Subject.String()), Issuer: printable(c.Issuer.String()),
			NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		}
		for _, name := range c.DNSNames[:min(len(c.DNSNames), maxNames)] {
			shown.Names = append(shown.Names, printable(name))
		}
		for _, address := range c.IPAddresses[:min(len(c.IPAddresses), maxNames-len(shown.Names))] {
			shown.Names = append(shown.Names, address.String())
		}
		i.Certificates = append(i.Certificates, shown)
	}
}
