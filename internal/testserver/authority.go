package testserver

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
	"path/filepath"
	"time"
)

// certificates are the paths of the files that a server needs for TLS.
type certificates struct {
	dir  string // contains cert and key, with the names that MinIO requires
	ca   string // the certificate of the authority that signed cert
	cert string
	key  string
}

// writeCertificates makes a certificate authority and a certificate for the loopback address, both valid
// for a day, and writes them below dir. It does not store the authority's key.
func writeCertificates(dir string) (certificates, error) {
	files := certificates{
		dir:  filepath.Join(dir, "certs"),
		ca:   filepath.Join(dir, "ca.crt"),
		cert: filepath.Join(dir, "certs", "public.crt"),
		key:  filepath.Join(dir, "certs", "private.key"),
	}
	if err := files.write(); err != nil {
		return certificates{}, fmt.Errorf("certificates: %w", err)
	}
	return files, nil
}

func (files certificates) write() error {
	authority := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "recvault test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	server := x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    authority.NotBefore,
		NotAfter:     authority.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, &authority, &authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, &server, &authority, &serverKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return err
	}
	if err := os.Mkdir(files.dir, 0o700); err != nil {
		return err
	}
	if err := writePEM(files.ca, "CERTIFICATE", authorityDER); err != nil {
		return err
	}
	if err := writePEM(files.cert, "CERTIFICATE", serverDER); err != nil {
		return err
	}
	return writePEM(files.key, "PRIVATE KEY", keyDER)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
