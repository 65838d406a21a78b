package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority is a certificate authority that lives as long as the control plane.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// keyPair is a certificate and its key, both PEM.
type keyPair struct{ certificate, key []byte }

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// issue makes a certificate for a client (its user name and groups are the subject's name and organizations) and for a
// server on loopback under these DNS names, until the end given.
func (a *authority) issue(end time.Time, name string, groups, dnsNames []string) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:     dnsNames,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return keyPair{}, fmt.Errorf("certificate for %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// writeCertificates makes everything that the four programs need to trust each other, as files of the control plane.
func (c *ControlPlane) writeCertificates() error {
	var err error
	if c.ca, err = newAuthority("e2e"); err != nil {
		return err
	}
	// A second authority signs only what the aggregator shows to metrics-server: a certificate of the first one must
	// not let a client claim to be anybody.
	frontProxyCA, err := newAuthority("e2e-front-proxy")
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": c.ca.pem, "front-proxy-ca.crt": frontProxyCA.pem}
	for _, leaf := range []struct {
		file     string
		by       *authority
		name     string
		groups   []string
		dnsNames []string
	}{
		{"apiserver", c.ca, "kube-apiserver", nil, []string{"localhost", "kubernetes.default.svc"}},
		{"admin", c.ca, "e2e-admin", []string{"system:masters"}, nil},
		{"kubelet", c.ca, "kubelet", nil, []string{"localhost"}},
		// The aggregator expects the name of the APIService's Service, wherever it connects to.
		{"metrics-server", c.ca, "metrics-server", nil, []string{"localhost", "metrics-server.kube-system.svc"}},
		{"service-account", c.ca, "service-account", nil, nil},
		{"front-proxy", frontProxyCA, "front-proxy-client", nil, nil},
	} {
		pair, err := leaf.by.issue(time.Now().Add(24*time.Hour), leaf.name, leaf.groups, leaf.dnsNames)
		if err != nil {
			return err
		}
		files[leaf.file+".crt"], files[leaf.file+".key"] = pair.certificate, pair.key
	}
	for name, content := range files {
		if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
