package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/rogpeppe/go-internal/testscript"
)

// freePort VARIABLE puts host:port of a port that is free now into an environment variable.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport variable")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

type natsKey struct{}

// natsServer start HOST:PORT [password|token|tls|creds] runs a NATS server with JetStream until the
// script ends or calls natsserver stop. With password its user is relay and the password hush. With
// token its token is hush. With tls it requires the client's certificate too, and writes ca.pem,
// client.pem and client.key. With creds it writes relay.creds. Its data lies in the script's
// directory.
func natsServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: natsserver start host:port [password|token|tls|creds] | natsserver stop")
	}
	running, _ := ts.Value(natsKey{}).(**server.Server)
	switch {
	case args[0] == "stop" && *running != nil:
		(*running).Shutdown()
		(*running).WaitForShutdown()
		*running = nil
		return
	case args[0] != "start" || len(args) < 2 || *running != nil:
		ts.Fatalf("natsserver %s: not now, or not known", args[0])
	}
	address, err := net.ResolveTCPAddr("tcp", args[1])
	ts.Check(err)
	opts := &server.Options{
		Host: "127.0.0.1", Port: address.Port, JetStream: true, StoreDir: ts.MkAbs("jetstream"), NoSigs: true,
		NoLog: true, JetStreamMaxStore: 1 << 30,
	}
	if len(args) > 2 {
		switch args[2] {
		case "password":
			opts.Username, opts.Password = "relay", "hush"
		case "token":
			opts.Authorization = "hush"
		case "tls":
			opts.TLSConfig, opts.TLS, opts.TLSVerify, opts.TLSTimeout = certificates(ts), true, true, 10
		case "creds":
			credentials(ts, opts)
		default:
			ts.Fatalf("natsserver: %s is not known", args[2])
		}
	}
	s, err := server.NewServer(opts)
	ts.Check(err)
	s.Start()
	*running = s
	if !s.ReadyForConnections(30 * time.Second) {
		ts.Fatalf("the NATS server takes no connections")
	}
}

// withNATS gives a script the place of its NATS server, and ends it with the script.
func withNATS(e *testscript.Env) {
	running := new(*server.Server)
	e.Values[natsKey{}] = running
	e.Defer(func() {
		if *running != nil {
			(*running).Shutdown()
			(*running).WaitForShutdown()
		}
	})
}

// certificates makes an authority, a server's and a client's certificate, and returns the server's
// side.
func certificates(ts *testscript.TestScript) *tls.Config {
	serial := int64(0)
	issue := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		serial++
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(serial),
			time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		ts.Check(err)
		made, err := x509.ParseCertificate(der)
		ts.Check(err)
		return made, key
	}
	authority, signer := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	serves, serverKey := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, authority, signer)
	client, clientKey := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "relay"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, authority, signer)
	der, err := x509.MarshalECPrivateKey(clientKey)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{
		"ca.pem": {Type: "CERTIFICATE", Bytes: authority.Raw}, "client.pem": {Type: "CERTIFICATE", Bytes: client.Raw},
		"client.key": {Type: "EC PRIVATE KEY", Bytes: der},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(block), 0o600))
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{serves.Raw}, PrivateKey: serverKey}},
	}
}

// credentials gives a server an operator with one account, and writes the credentials of a user of
// it.
func credentials(ts *testscript.TestScript, opts *server.Options) {
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		kp, err := create()
		ts.Check(err)
		public, err := kp.PublicKey()
		ts.Check(err)
		return kp, public
	}
	operator, operatorID := pair(nkeys.CreateOperator)
	account, accountID := pair(nkeys.CreateAccount)
	_, systemID := pair(nkeys.CreateAccount)
	user, userID := pair(nkeys.CreateUser)
	claims := jwt.NewAccountClaims(accountID)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := claims.Encode(operator)
	ts.Check(err)
	systemJWT, err := jwt.NewAccountClaims(systemID).Encode(operator)
	ts.Check(err)
	userJWT, err := jwt.NewUserClaims(userID).Encode(account)
	ts.Check(err)
	seed, err := user.Seed()
	ts.Check(err)
	creds, err := jwt.FormatUserConfig(userJWT, seed)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("relay.creds"), creds, 0o600))
	resolver := &server.MemAccResolver{}
	ts.Check(resolver.Store(accountID, accountJWT))
	ts.Check(resolver.Store(systemID, systemJWT))
	opts.TrustedKeys, opts.AccountResolver, opts.SystemAccount = []string{operatorID}, resolver, systemID
}

// refused HOST:PORT tries to make a callback, which must be refused at once as what may be tried
// again.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: refused host:port")
	}
	began := time.Now()
	request, err := http.NewRequest(http.MethodPut, "http://"+args[0]+"/v1/callbacks/"+fmt.Sprint(began.UnixNano()),
		strings.NewReader(`{"url":"https://bms.example/"}`))
	ts.Check(err)
	request.Header.Set("Authorization", "Bearer "+ts.Getenv("RELAY_ADMIN_TOKEN"))
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	answer, err := client.Do(request)
	ts.Check(err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" ||
		answer.Header.Get("Content-Type") != "application/problem+json" {
		ts.Fatalf("answered with status %d, %v", answer.StatusCode, answer.Header)
	}
	if took := time.Since(began); took > 30*time.Second { // milliseconds; a store that is waited for takes minutes
		ts.Fatalf("answered after %s", took)
	}
}
